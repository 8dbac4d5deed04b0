// Package policy reads a rollout policy, the YAML that says which hosts get
// which change, in what waves, under which budgets and behind which gate, into
// typed values. Errors carry line and column; an unknown field is an error,
// and so is a field that this version cannot honour: nothing is ignored.
package policy

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"afloat/internal/fleet"
)

// Policy is one rollout's policy with every default filled in.
type Policy struct {
	Name     string
	Target   Target
	Fallback Fallback
	// FallbackKernel is what hosts boot by FallbackReboot, "" for what is
	// installed on each of them.
	FallbackKernel string
	Urgency        Urgency
	// Reason is why, for the audit; an emergency must have one.
	Reason  string
	Select  fleet.Selector
	Waves   []Wave
	Gate    Gate
	Budgets []Budget
	// Windows are when hosts may start; none means always.
	Windows []Window
	// Freezes are when no host may start, whatever the windows say.
	Freezes []Freeze
	// Down bounds how many of the selected hosts may be unavailable at once; zero means no bound.
	Down Amount
	// Rate bounds how many hosts may start in a time; zero means no bound.
	Rate Rate
	// MinInterval is the least time between two disruptions of one host.
	MinInterval time.Duration
	Debt        Debt
	// Reboot says how soon hosts must boot for this change, "" for when it suits.
	Reboot   Urge
	Timeouts Timeouts
	calm     *calm // what an emergency made wider, nil if it is none
}

// Action is what a rollout does to a host.
type Action string

const (
	Live    Action = "live"    // load a live patch
	Kernel  Action = "kernel"  // install a kernel and reboot into it
	Module  Action = "module"  // exchange a kernel module
	Replace Action = "replace" // replace the machine by a new one
	Restart Action = "restart" // restart a systemd unit
)

// Target is what the hosts are brought to.
type Target struct {
	Action Action
	Name   string // patch set, kernel version, module, image or unit
	// From is what a revert of a module or image goes back to, "" for unknown.
	From string
}

func (t Target) String() string { return string(t.Action) + " " + t.Name }

// Disrupts says whether a host is out of service while the action runs. A live
// patch is not: it costs a second or two of latency.
func (t Target) Disrupts() bool { return t.Action != Live }

// Disrupts says whether any host may be out of service for this policy.
func (p *Policy) Disrupts() bool { return p.Target.Disrupts() || p.Fallback == FallbackReboot }

// Fallback is what happens to hosts that no bundle fits.
type Fallback string

const (
	FallbackNone   Fallback = "none"
	FallbackReboot Fallback = "reboot"
)

// Urgency is how much risk the rollout may take to be fast.
type Urgency string

const (
	Normal    Urgency = "normal"
	Emergency Urgency = "emergency" // soaks a quarter as long, budgets twice as wide but for those of groups
)

// Amount is a number of hosts: absolute, a share, or what a quorum can lose.
type Amount struct {
	N      int
	Share  float64 // 0 to 1
	Quorum bool    // all that a majority can spare, less N
}

// Zero says that no amount was given.
func (a Amount) Zero() bool { return a == Amount{} }

// Of is the amount of total hosts, rounded down; a share of at least one host
// that rounds to none is one, or nothing would ever move.
func (a Amount) Of(total int) int {
	switch {
	case a.Quorum:
		return max(0, total-(total/2+1)-a.N)
	case a.Share > 0:
		return min(total, max(1, int(a.Share*float64(total)+1e-9)))
	}
	return min(total, a.N)
}

// Up is the amount of total hosts, rounded up.
func (a Amount) Up(total int) int {
	if a.Share > 0 {
		return min(total, int(math.Ceil(a.Share*float64(total)-1e-9)))
	}
	return a.Of(total)
}

func (a Amount) String() string {
	switch {
	case a.Quorum:
		return fmt.Sprintf("quorum-%d", a.N)
	case a.Share > 0:
		return strconv.FormatFloat(a.Share*100, 'g', 6, 64) + "%"
	}
	return strconv.Itoa(a.N)
}

// Wave is an ordered part of a rollout. Waves with a selector take their hosts
// first; the sized ones share out the rest: a share is reached when the wave
// is over (10% after 1% means nine more), a number is that many more.
type Wave struct {
	Name   string
	Select *fleet.Selector
	Size   Amount
	Soak   time.Duration
	// Failures is how many hosts of the wave may fail before it holds.
	Failures Amount
	// Control is the last wave: hosts kept as the arm to compare with, until
	// the evidence is enough or Gate.Control.By has passed since the start.
	Control bool
	// Stragglers is how many admitted hosts the wave need not wait for.
	Stragglers Amount
}

// Gate says which evidence stops a rollout.
type Gate struct {
	Crashes        Crashes
	Control        Control
	Metrics        []Metric
	NoData         NoData
	OnInconclusive OnInconclusive
	OnRevert       OnRevert
}

// Crashes are the two tests on crashes: the evidence gate and the hard cap.
type Crashes struct {
	// FalseRevert is the chance that a harmless patch is ever reverted, 0 for no evidence gate.
	FalseRevert float64
	// Baseline is how often a healthy host crashes, per year.
	Baseline float64
	// Spread times Baseline is the upper end of what is known about it.
	Spread float64
	Cap    Cap
}

// Cap reverts when more than Excess of the exposed hosts crashed Within the time after apply.
type Cap struct {
	Excess float64
	Within time.Duration
}

// Control are hosts patched last, as the arm to compare with.
type Control struct {
	Size Amount
	By   time.Duration // after the start at the latest
}

// Metric is a query whose value on patched hosts may be at most Max.
type Metric struct {
	Query string
	Max   string
}

// NoData says what happens while a signal cannot be read.
type NoData string

// NoDataHold is the only value: unknown blocks.
const NoDataHold NoData = "hold"

// OnInconclusive says what happens when a wave ends with too little evidence.
type OnInconclusive string

const (
	InconclusiveContinue OnInconclusive = "continue" // recorded as inconclusive, never as green
	InconclusiveHold     OnInconclusive = "hold"
)

// OnRevert says what a revert verdict does.
type OnRevert string

const (
	RevertRevert OnRevert = "revert" // take the patch off
	RevertPause  OnRevert = "pause"  // stop and wait for a person
)

// Timeouts are how long a host may take before it counts as silent or stuck.
type Timeouts struct {
	Silent time.Duration // without a sign of life
	Stuck  time.Duration // in one phase of an action
	Drain  time.Duration // out of rotation
	Boot   time.Duration // from the last sign of life to the first after the action
}

// Rate is at most N starts in Per.
type Rate struct {
	N   int
	Per time.Duration
}

// Zero says that no rate was given.
func (r Rate) Zero() bool { return r.N == 0 }

func (r Rate) String() string { return fmt.Sprintf("%d per %s", r.N, Span(r.Per)) }

// Span prints a duration as people write it: 30m, 24h, 7d.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if rest, ok := strings.CutSuffix(s, zero); ok {
			s = rest + zero[:1]
		}
	}
	return s
}

// ParseRate reads a rate such as "60 per 30m"; it is one line, so that its
// error has no place.
func ParseRate(s string) (Rate, error) {
	r, err := text{s: s}.rate()
	if err != nil {
		return r, fmt.Errorf("read rate: %w", err)
	}
	return r, nil
}

// Of0 is Of without the rounding up to one host: what may be lost.
func (a Amount) Of0(total int) int {
	if a.Share > 0 {
		return int(a.Share*float64(total) + 1e-9)
	}
	return a.Of(total)
}
