package policy

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"afloat/internal/fleet"
)

// MaxSize is the largest policy that is read, in bytes.
const MaxSize = 256 << 10

// Defaults of what a policy leaves out.
const (
	DefaultWithin      = 24 * time.Hour
	DefaultExcess      = 1.0 / 1000
	DefaultFalseRevert = 0.01
	// DefaultBaseline is 0.05 crashes per host and year.
	DefaultBaseline = 0.05
	DefaultSpread   = 3
	DefaultSilent   = 5 * time.Minute
	DefaultStuck    = 15 * time.Minute
	DefaultDrain    = 30 * time.Minute
	DefaultBoot     = 30 * time.Minute
	// DefaultDown is the share of hosts that an action that disrupts may take
	// out at once when the policy bounds nothing.
	DefaultDown = 0.01
)

// Parse reads a policy that somebody wants to have carried out. Its errors are *Error.
func Parse(data []byte) (*Policy, error) {
	return parse(data, (*Policy).careful)
}

// Reread reads a policy that was accepted before, out of a log. It lets through
// what Parse has come to refuse: what was decided under it stays decided.
func Reread(data []byte) (*Policy, error) {
	return parse(data)
}

func parse(data []byte, more ...func(*Policy, *document) error) (*Policy, error) {
	if len(data) > MaxSize {
		return nil, &Error{Msg: "is too large"}
	}
	var d document
	if err := decode(data, &d); err != nil {
		return nil, located(err)
	}
	p := &Policy{}
	for _, step := range []func(*document) error{
		p.readHead, p.readWaves, p.readGate, p.readControl, p.readBudgets, p.readTimes, p.readRest, p.readDebt, p.hurry,
	} {
		if err := step(&d); err != nil {
			return nil, located(err)
		}
	}
	for _, step := range more {
		if err := step(p, &d); err != nil {
			return nil, located(err)
		}
	}
	return p, nil
}

func decode(data []byte, d *document) (err error) {
	defer func() {
		// A parser fed with foreign bytes must end in an error, whatever it does.
		if r := recover(); r != nil {
			err = &Error{Msg: "is not YAML that can be read"}
		}
	}()
	if strings.TrimSpace(string(data)) == "" {
		return errors.New("is empty")
	}
	return yaml.UnmarshalWithOptions(data, d, yaml.Strict())
}

func (p *Policy) readHead(d *document) (err error) {
	if !namePattern.MatchString(d.Name.s) {
		return d.Name.errorf("name %q: want 1 to 64 letters, digits, dots, dashes", d.Name.s)
	}
	p.Name = d.Name.s
	if p.Target, err = d.Target.read(); err != nil {
		return err
	}
	if p.Fallback, err = oneOf(d.Fallback, FallbackNone, FallbackNone, FallbackReboot); err != nil {
		return err
	}
	if p.FallbackKernel = d.FallbackKernel.s; p.FallbackKernel != "" && !objectPattern.MatchString(p.FallbackKernel) {
		return d.FallbackKernel.errorf("fallbackKernel %q: want a release or package version", p.FallbackKernel)
	}
	if p.Urgency, err = oneOf(d.Urgency, Normal, Normal, Emergency); err != nil {
		return err
	}
	p.Select, err = d.Select.selector()
	return err
}

func (r *rawTarget) read() (Target, error) {
	if r == nil {
		return Target{}, errors.New("target is missing")
	}
	var found []Target
	var at text
	for _, t := range []struct {
		a Action
		v text
	}{{Live, r.Live}, {Kernel, r.Kernel}, {Module, r.Module}, {Replace, r.Replace}, {Restart, r.Restart}} {
		if t.v.s != "" {
			found, at = append(found, Target{Action: t.a, Name: t.v.s}), t.v
		}
	}
	if len(found) != 1 {
		return Target{}, at.errorf("target: want exactly one of live, kernel, module, replace, restart")
	}
	found[0].From = r.From.s
	return found[0], found[0].check(at, r.From)
}

// check keeps to names that can travel and stand on a host's command line.
func (t Target) check(at, from text) error {
	switch {
	case t.Action == Live && !namePattern.MatchString(t.Name):
		return at.errorf("target %q: want 1 to 64 letters, digits, dots, dashes", t.Name)
	case !objectPattern.MatchString(t.Name):
		return at.errorf("target %q: want at most 256 letters, digits and signs, no blanks", t.Name)
	case t.From == "":
		return nil
	case t.Action != Module && t.Action != Replace:
		return from.errorf("target: from is for module and replace: a host knows the kernel it ran")
	case !objectPattern.MatchString(t.From):
		return from.errorf("target from %q: want at most 256 letters, digits and signs, no blanks", t.From)
	}
	return nil
}

func (p *Policy) readWaves(d *document) error {
	share := 0.0
	for i, r := range d.Waves.list {
		w, err := r.read()
		if err != nil {
			return err
		}
		if w.Name == "" {
			w.Name = waveName(i, w)
		}
		if w.Select == nil && w.Size.Share > 0 {
			if w.Size.Share <= share {
				return r.Size.errorf("wave size %s is not above the one before: shares add up to the whole", w.Size)
			}
			share = w.Size.Share
		}
		p.Waves = append(p.Waves, w)
	}
	if len(p.Waves) == 0 {
		p.Waves = []Wave{{Name: "all", Size: Amount{Share: 1}}}
	}
	if len(p.Waves) > 100 {
		return d.Waves.list[100].Size.errorf("more than 100 waves")
	}
	return nil
}

func waveName(i int, w Wave) string {
	if w.Select != nil {
		return w.Select.String()
	}
	return w.Size.String()
}

func (r rawWave) read() (w Wave, err error) {
	w.Name = r.Name.s
	if r.Select.s != "" {
		s, err := r.Select.selector()
		if err != nil {
			return w, err
		}
		w.Select = &s
	}
	switch {
	case r.Size.s == "" && w.Select == nil:
		return w, r.Name.errorf("wave %q: want a size or a selector", r.Name.s)
	case r.Size.s == "":
	default:
		if w.Size, err = r.Size.amount(); err != nil {
			return w, err
		}
		if w.Size.Quorum || w.Size.Zero() {
			return w, r.Size.errorf("wave size %q: want a share or a number of hosts", r.Size.s)
		}
		if w.Select != nil {
			return w, r.Size.errorf("a wave takes a size or a selector, not both")
		}
	}
	if w.Soak, err = r.Soak.duration(0); err != nil {
		return w, err
	}
	w.Failures, w.Stragglers = Amount{Share: 0.02}, Amount{Share: 0.01}
	if r.Failures.s != "" {
		if w.Failures, err = r.Failures.amount(); err != nil {
			return w, err
		}
	}
	if r.Stragglers.s != "" {
		w.Stragglers, err = r.Stragglers.amount()
	}
	return w, err
}

func (p *Policy) readGate(d *document) (err error) {
	g := &d.Gate
	if err = p.readCrashes(g); err != nil {
		return err
	}
	if p.Gate.NoData, err = oneOf(g.NoData, NoDataHold, NoDataHold); err != nil {
		return err
	}
	if p.Gate.OnInconclusive, err = oneOf(g.OnInconclusive, InconclusiveContinue, InconclusiveContinue, InconclusiveHold); err != nil {
		return err
	}
	if p.Gate.OnRevert, err = oneOf(g.OnRevert, RevertRevert, RevertRevert, RevertPause); err != nil {
		return err
	}
	if len(g.Metrics) > 0 {
		return g.Metrics[0].Query.errorf("gate.metrics cannot be judged: the server asks no metrics store; let probes on the hosts or an alert that runs afloat rollout pause say it")
	}
	return nil
}

// DefaultControlBy is how long the control arm may wait for its patch.
const DefaultControlBy = 72 * time.Hour

// readControl keeps the last share of the hosts back as a wave of its own.
func (p *Policy) readControl(d *document) (err error) {
	t := d.Gate.Control.Size
	if t.s == "" {
		if by := d.Gate.Control.By; by.s != "" {
			return by.errorf("gate.control.by needs gate.control.size")
		}
		return nil
	}
	c := &p.Gate.Control
	if c.Size, err = t.amount(); err != nil {
		return err
	}
	if c.By, err = d.Gate.Control.By.duration(DefaultControlBy); err != nil {
		return err
	}
	last := &p.Waves[len(p.Waves)-1]
	switch {
	case c.Size.Share <= 0 || c.Size.Share > 0.5:
		return t.errorf("gate.control.size %q: want a share of at most 50%%", t.s)
	case last.Select != nil || last.Size.Share != 1:
		return t.errorf("gate.control needs a last wave of 100%%: it is taken from that")
	}
	for i := range p.Waves {
		if w := &p.Waves[i]; w.Select == nil && w.Size.Share > 1-c.Size.Share {
			w.Size.Share = 1 - c.Size.Share
		}
	}
	p.Waves = append(p.Waves, Wave{Name: "control", Control: true, Size: Amount{Share: 1},
		Failures: last.Failures, Stragglers: last.Stragglers, Soak: last.Soak})
	return nil
}

// hurry makes an emergency faster: soaks a quarter as long, budgets twice as
// wide, but for how many hosts of a group may be out: twice one is a whole pair.
func (p *Policy) hurry(d *document) error {
	p.Reason = d.Reason.s
	if p.Urgency != Emergency {
		return nil
	}
	if p.Reason == "" {
		return d.Urgency.errorf("urgency emergency needs a reason, for the audit")
	}
	for i := range p.Waves {
		p.Waves[i].Soak /= 4
	}
	p.calm = &calm{p.Down, p.Rate, slices.Clone(p.Budgets)}
	p.Down = p.Down.double()
	for i := range p.Budgets {
		b := &p.Budgets[i]
		if b.Starts.N *= 2; !b.parts() {
			b.Unavailable = b.Unavailable.double()
		}
	}
	p.Rate.N *= 2
	return nil
}

// double is twice the amount. What a quorum can lose does not grow.
func (a Amount) double() Amount {
	if a.Quorum {
		return a
	}
	return Amount{N: 2 * a.N, Share: min(1, 2*a.Share)}
}

func (p *Policy) readCrashes(g *rawGate) (err error) {
	c := &p.Gate.Crashes
	*c = Crashes{FalseRevert: DefaultFalseRevert, Baseline: DefaultBaseline, Spread: DefaultSpread,
		Cap: Cap{Excess: DefaultExcess, Within: DefaultWithin}}
	if t := g.Crashes.FalseRevert; t.s != "" {
		if c.FalseRevert, err = t.ratio(); err != nil {
			return err
		}
		if c.FalseRevert <= 0 || c.FalseRevert >= 1 {
			return t.errorf("falseRevert is a chance above 0 and below 100%%")
		}
	}
	if t := g.Crashes.Baseline; t.s != "" {
		if c.Baseline, err = t.number(); err != nil || c.Baseline == 0 {
			return t.errorf("baseline %q: want crashes per host and year, above 0", t.s)
		}
	}
	if t := g.Crashes.Spread; t.s != "" {
		if c.Spread, err = t.number(); err != nil || c.Spread < 1 {
			return t.errorf("spread %q: want a factor of at least 1", t.s)
		}
	}
	if t := g.Crashes.Cap.Excess; t.s != "" {
		if c.Cap.Excess, err = t.ratio(); err != nil {
			return err
		}
	}
	c.Cap.Within, err = g.Crashes.Cap.Within.duration(DefaultWithin)
	if err == nil && c.Cap.Within <= 0 {
		return g.Crashes.Cap.Within.errorf("the cap needs a time")
	}
	return err
}

func (p *Policy) readBudgets(d *document) error {
	for i := range d.Budgets {
		b, err := d.Budgets[i].read()
		if err != nil {
			return err
		}
		p.Budgets = append(p.Budgets, b)
	}
	return nil
}

// optional reads one field if it is there.
func optional[T any](t text, into *T, read func() (T, error)) error {
	if t.s == "" {
		return nil
	}
	v, err := read()
	*into = v
	return err
}

func (r rawBudget) read() (b Budget, err error) {
	b.Name, b.GroupBy, b.Load, b.Order = r.Name.s, r.GroupBy.s, r.Load.s, r.Order.s
	var domains Amount
	err = errors.Join(
		optional(r.Select, &b.Select, r.Select.selector),
		optional(r.Unavailable, &b.Unavailable, r.Unavailable.amount),
		optional(r.Domains, &domains, r.Domains.amount),
		optional(r.Warm, &b.Warm, func() (time.Duration, error) { return r.Warm.duration(0) }),
		optional(r.Starts, &b.Starts, r.Starts.rate),
		optional(r.Headroom, &b.Headroom, r.Headroom.ratio),
		optional(r.Disruptions, &b.Disruptions, r.Disruptions.rate),
	)
	if err != nil {
		return b, err
	}
	b.Domains = domains.N
	if b.Name == "" {
		b.Name = budgetName(b.Select, b.GroupBy)
	}
	return b, r.check(b)
}

func budgetName(s fleet.Selector, groupBy string) string {
	parts := []string{"all"}
	if !s.All() {
		parts[0] = s.String()
	}
	if groupBy != "" {
		parts = append(parts, "by "+groupBy)
	}
	return strings.Join(parts, " ")
}

func (r rawBudget) check(b Budget) error {
	at := r.Name
	for _, t := range []text{r.Select, r.GroupBy, r.Unavailable, r.Domains} {
		if at.at == nil {
			at = t
		}
	}
	switch {
	case r.Unavailable.s != "" && b.Unavailable.Zero():
		return r.Unavailable.errorf("budget %s: unavailable 0 would never let a host start", b.Name)
	case r.Domains.s != "" && b.Domains < 1:
		return r.Domains.errorf("budget %s: domains is a number from 1 up", b.Name)
	case b.Domains > 0 && b.GroupBy == "":
		return r.Domains.errorf("budget %s: domains needs groupBy", b.Name)
	case b.Headroom > 0 && b.Load == "":
		return r.Headroom.errorf("budget %s: headroom needs load, the label with a host's load", b.Name)
	case b.Unavailable.Zero() && r.Unavailable.s == "" && b.Domains == 0 && b.Starts.Zero() && b.Headroom == 0 && b.Order == "" && b.Disruptions.Zero():
		return at.errorf("budget %s bounds nothing: want unavailable, domains, starts, headroom, order or disruptions", b.Name)
	}
	return nil
}

func (p *Policy) readTimes(d *document) error {
	for _, t := range d.Windows {
		w, err := parseWindow(t)
		if err != nil {
			return err
		}
		p.Windows = append(p.Windows, w)
	}
	for _, t := range d.Freezes {
		f, err := parseFreeze(t)
		if err != nil {
			return err
		}
		p.Freezes = append(p.Freezes, f)
	}
	return nil
}

func (p *Policy) readRest(d *document) (err error) {
	if err = optional(d.Unavailable, &p.Down, d.Unavailable.amount); err != nil {
		return err
	}
	if err = optional(d.Rate, &p.Rate, d.Rate.rate); err != nil {
		return err
	}
	if p.MinInterval, err = d.MinInterval.duration(0); err != nil {
		return err
	}
	for _, limit := range []struct {
		t        text
		into     *time.Duration
		fallback time.Duration
	}{
		{d.Timeouts.Silent, &p.Timeouts.Silent, DefaultSilent}, {d.Timeouts.Stuck, &p.Timeouts.Stuck, DefaultStuck},
		{d.Timeouts.Drain, &p.Timeouts.Drain, DefaultDrain}, {d.Timeouts.Boot, &p.Timeouts.Boot, DefaultBoot},
	} {
		if *limit.into, err = limit.t.duration(limit.fallback); err != nil {
			return err
		}
	}
	switch {
	case p.Fallback == FallbackReboot && p.Target.Disrupts():
		return d.Fallback.errorf("fallback reboot is for live targets")
	case p.FallbackKernel != "" && p.Fallback != FallbackReboot:
		return d.FallbackKernel.errorf("fallbackKernel needs fallback: reboot")
	case p.Fallback == FallbackReboot && !p.bounded():
		return d.Fallback.errorf("fallback reboot needs budgets or unavailable: how many hosts may be out at once")
	}
	if p.Target.Disrupts() && p.Target.Action != Replace && !p.bounded() { // a replacement stands before the old machine goes
		p.Down = Amount{Share: DefaultDown}
	}
	return nil
}

// bounded says that something keeps the rollout from taking all hosts at once.
func (p *Policy) bounded() bool {
	return len(p.Budgets) > 0 || !p.Down.Zero() || !p.Rate.Zero()
}
