package policy

import (
	"strings"
	"time"

	"afloat/internal/fleet"
)

// Debt is when the reboot that a live patch put off is due.
type Debt struct {
	// Reboot is within which time after the rollout every host boots, 0 for no rule.
	Reboot time.Duration
	// BootSample is the share of hosts that boot first, to prove that the
	// patched kernel does; SampleBy within which time.
	BootSample Amount
	SampleBy   time.Duration
	// Kernel they boot, "" for what is installed on each.
	Kernel string
	sample fleet.Selector
}

// Urge is how soon a reboot must follow.
type Urge string

const (
	// RebootPromptly: the live patch stops the bug, but memory may be damaged already.
	RebootPromptly Urge = "promptly"
	// RebootRequired: no live patch can do it. Hosts take no later live patches
	// for the old kernel until they run the target.
	RebootRequired Urge = "required"
)

// Defaults of the debt.
const (
	DefaultPromptly = 72 * time.Hour
	DefaultSampleBy = 24 * time.Hour
	defaultSample   = 0.01
	sampleSoak      = time.Hour
)

func (p *Policy) readDebt(d *document) (err error) {
	if p.Reboot, err = oneOf(d.Reboot, "", RebootPromptly, RebootRequired); err != nil {
		return err
	}
	switch {
	case p.Reboot == RebootRequired && p.Target.Action != Kernel:
		return d.Reboot.errorf("reboot required is for kernel targets: hosts boot into one before they take later live patches")
	case p.Reboot == RebootPromptly && p.Target.Action != Live:
		return d.Reboot.errorf("reboot promptly is for live targets")
	}
	if err = p.Debt.read(&d.Debt); err != nil {
		return err
	}
	if p.Reboot == RebootPromptly && p.Debt.Reboot == 0 {
		p.Debt.Reboot, p.Debt.BootSample, p.Debt.SampleBy = DefaultPromptly, Amount{Share: defaultSample}, DefaultSampleBy
	}
	if p.Debt.sample, err = fleet.ParseSelector(SampleLabel + "=yes"); err != nil {
		return err
	}
	at := d.Debt.Reboot
	if at.s == "" {
		at = d.Reboot
	}
	switch {
	case p.Debt.Reboot == 0:
		return nil
	case p.Target.Action != Live:
		return at.errorf("debt is for live targets: the others owe no reboot")
	case !p.bounded():
		return at.errorf("debt needs budgets or unavailable: how many hosts may be out at once")
	}
	return nil
}

func (b *Debt) read(r *rawDebt) (err error) {
	if r.Reboot.s == "" {
		for _, t := range []text{r.BootSample, r.Kernel} {
			if t.s != "" {
				return t.errorf("debt: want reboot: within TIME")
			}
		}
		return nil
	}
	within, ok := strings.CutPrefix(r.Reboot.s, "within ")
	if !ok {
		return r.Reboot.errorf("%q: want within TIME, such as within 30d", r.Reboot.s)
	}
	if b.Reboot, err = r.Reboot.part(within).duration(0); err != nil {
		return err
	}
	if b.Kernel = r.Kernel.s; b.Kernel != "" && !objectPattern.MatchString(b.Kernel) {
		return r.Kernel.errorf("debt kernel %q: want a release or package version", b.Kernel)
	}
	b.BootSample, b.SampleBy = Amount{Share: defaultSample}, min(DefaultSampleBy, b.Reboot)
	if r.BootSample.s == "" {
		return nil
	}
	share, by, ok := strings.Cut(r.BootSample.s, " within ")
	if !ok {
		return r.BootSample.errorf("%q: want SHARE within TIME, such as 1%% within 24h", r.BootSample.s)
	}
	if b.BootSample, err = r.BootSample.part(share).amount(); err != nil {
		return err
	}
	if b.BootSample.Quorum || b.BootSample.Zero() {
		return r.BootSample.errorf("%q: want a share or a number of hosts", r.BootSample.s)
	}
	b.SampleBy, err = r.BootSample.part(by).duration(0)
	return err
}

// Prompt is the policy with its reboots promptly, if they were not due sooner: the
// publisher of its patch wants that. Of targets other than live patches it is the same.
func (p *Policy) Prompt() *Policy {
	if p.Target.Action != Live {
		return p
	}
	out := *p
	out.Reboot = RebootPromptly
	switch {
	case out.Debt.Reboot == 0:
		out.Debt.Reboot, out.Debt.BootSample, out.Debt.SampleBy = DefaultPromptly, Amount{Share: defaultSample}, DefaultSampleBy
	case out.Debt.Reboot > DefaultPromptly:
		out.Debt.Reboot, out.Debt.SampleBy = DefaultPromptly, min(out.Debt.SampleBy, DefaultSampleBy)
	}
	return &out
}

// SampleLabel marks, for the planner alone, the hosts of a boot sample.
const SampleLabel = "afloat.boot-sample"

// calm is what an emergency takes for wider.
type calm struct {
	down    Amount
	rate    Rate
	budgets []Budget
}

// Payoff is the policy of the reboots that a live rollout owes: first the
// sample, of which no host may fail, then the rest, inside the same budgets.
func (p *Policy) Payoff() *Policy {
	out := *p
	out.Name = p.Name + "-debt"
	out.Target = Target{Action: Kernel, Name: p.Debt.Kernel}
	out.Fallback, out.FallbackKernel, out.Reboot, out.Debt = FallbackNone, "", "", Debt{}
	out.Gate.Control = Control{}
	if p.calm != nil { // the patch was urgent, its reboots are not
		out.Urgency, out.Down, out.Rate, out.Budgets, out.calm = Normal, p.calm.down, p.calm.rate, p.calm.budgets, nil
	}
	if !out.bounded() { // the publisher wants reboots of which the policy says nothing
		out.Down = Amount{Share: DefaultDown}
	}
	sample := p.Debt.sample
	out.Waves = []Wave{
		{Name: "boot sample", Select: &sample, Soak: min(sampleSoak, p.Debt.SampleBy)},
		{Name: "debt", Size: Amount{Share: 1}, Failures: Amount{Share: 0.02}, Stragglers: Amount{Share: 0.01}},
	}
	return &out
}
