package sim

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"afloat/internal/fleet"
)

// Fault is one thing that goes wrong: NAME[:SHARE][@TIME][+DURATION][?SELECTOR].
type Fault struct {
	Name  string
	Share float64       // chance per host or message, or a factor
	Count int           // so many hosts, for down and cut, instead of a share
	At    time.Duration // after the start
	For   time.Duration
	On    fleet.Selector
	text  string
}

func (f Fault) String() string { return f.text }

// Faults lists what can go wrong, with what the parts mean.
func Faults() map[string]string {
	return map[string]string{
		"crash-on-apply":   "SHARE of the hosts die within a minute after they have the target",
		"oops-on-apply":    "SHARE of the hosts print an oops within a minute after they have the target, and live",
		"leak":             "SHARE crashes per host-hour from DURATION after the target on",
		"apply-fails":      "SHARE of the applies end in a stalled transition",
		"breaks-next-boot": "SHARE of the hosts that had the live patch, or boot the kernel, do not come back from the boot",
		"boots-old-kernel": "SHARE of the boots into another kernel end in the old one",
		"stuck-drain":      "SHARE of the drains never end",
		"probe-fails":      "SHARE of the verifications fail",
		"lost":             "SHARE of the messages are lost",
		"late":             "SHARE of the reports come up to DURATION late, and so out of order",
		"skew":             "SHARE of the hosts have wall clocks that are up to DURATION wrong",
		"twice":            "SHARE of the reports come twice",
		"cut":              "SHARE of the hosts cannot be heard from TIME on for DURATION",
		"down":             "SHARE of the hosts (or so many: 1host, 20hosts; or the selected ones) lose power at TIME for DURATION",
		"blind":            "SHARE of the hosts cannot see crash evidence from TIME on for DURATION",
		"owner-drains":     "SHARE of the hosts are out of rotation by their owner's hand from TIME on for DURATION",
		"never-returns":    "SHARE of the boots never end",
		"server-crash":     "the server dies at TIME and another leads after DURATION",
		"abort":            "an operator aborts at TIME; a SHARE of 2 means the second rollout",
		"pause":            "an operator pauses at TIME and resumes after DURATION",
		"revert":           "an operator reverts at TIME",
		"join":             "SHARE of the hosts join only at TIME",
	}
}

// ParseFault reads a fault as the command line gives it.
func ParseFault(s string) (Fault, error) {
	f := Fault{text: s, Share: 1}
	rest, sel, has := strings.Cut(s, "?")
	if has {
		on, err := fleet.ParseSelector(sel)
		if err != nil {
			return f, fmt.Errorf("parse fault %q: %w", s, err)
		}
		f.On = on
	}
	at, lasts := strings.Contains(rest, "@"), strings.Contains(rest, "+")
	rest, err := f.times(rest)
	if err != nil {
		return f, fmt.Errorf("parse fault %q: %w", s, err)
	}
	name, share, has := strings.Cut(rest, ":")
	if has {
		if n, many := strings.CutSuffix(strings.TrimSuffix(share, "s"), "host"); many {
			f.Count, err = strconv.Atoi(n)
			if err == nil && (f.Count < 1 || name != "down" && name != "cut") {
				err = fmt.Errorf("%s hosts cannot be the share of %s", n, name)
			}
		} else {
			f.Share, err = parseShare(share)
		}
		if err != nil {
			return f, fmt.Errorf("parse fault %q: %w", s, err)
		}
	}
	if _, known := Faults()[name]; !known {
		return f, fmt.Errorf("parse fault %q: %q is not a fault", s, name)
	}
	f.Name = name
	if err := f.check(has, at, lasts); err != nil {
		return f, fmt.Errorf("parse fault %q: %w", s, err)
	}
	return f, nil
}

// times cuts @TIME and +DURATION off the end.
func (f *Fault) times(s string) (rest string, err error) {
	rest, at, has := strings.Cut(s, "@")
	if !has {
		rest, lasts, has := strings.Cut(s, "+")
		if has {
			f.For, err = time.ParseDuration(lasts)
		}
		return rest, err
	}
	at, lasts, has := strings.Cut(at, "+")
	if has {
		if f.For, err = time.ParseDuration(lasts); err != nil {
			return rest, err
		}
	}
	f.At, err = time.ParseDuration(at)
	return rest, err
}

func parseShare(s string) (float64, error) {
	a, b, ratio := strings.Cut(s, "/")
	x, err := strconv.ParseFloat(strings.TrimSuffix(a, "%"), 64)
	if err != nil {
		return 0, err
	}
	if strings.HasSuffix(a, "%") {
		x /= 100
	}
	if ratio {
		y, err := strconv.ParseFloat(b, 64)
		if err != nil {
			return 0, err
		}
		x /= y
	}
	if math.IsNaN(x) || math.IsInf(x, 0) || x < 0 {
		return 0, fmt.Errorf("%q is not a share", s)
	}
	return x, nil
}

// faults is the list of a run, by name.
type faults []Fault

// chance is the share of the fault for a host, 0 when there is none.
func (f faults) chance(name string, l fleet.Labels) float64 {
	sum := 0.0
	for _, x := range f {
		if x.Name == name && x.On.Matches(l) {
			sum += x.Share
		}
	}
	return sum
}

func (f faults) named(name string) (out []Fault) {
	for _, x := range f {
		if x.Name == name {
			out = append(out, x)
		}
	}
	return out
}
