// Package sim runs a virtual fleet in virtual time: hosts with the agent's own
// brain (converge), the server's own turn (control), and faults drawn from a
// seed. The same seed gives the same run.
package sim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/goccy/go-yaml"

	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/plan"
	"afloat/internal/policy"
	"afloat/internal/wire"
)

// Fleet describes a virtual fleet: groups of like hosts.
type Fleet struct {
	Groups []Group `yaml:"groups"`
	// Live is the kernel (release) that live patches are built for, default
	// that of the first group.
	Live string `yaml:"live"`
	// Services by the value of the label service.
	Services map[string]Service `yaml:"services"`
}

// Group is like hosts. Labels may hold {n}, the host's number in the group,
// and {n/40}, that number divided: rack: r{n/40}.
type Group struct {
	Name   string            `yaml:"name"`
	Hosts  int               `yaml:"hosts"`
	Labels map[string]string `yaml:"labels"`
	Kernel string            `yaml:"kernel"` // release, default 6.1.0-55-amd64
	// CrashesPerYear of a healthy host.
	CrashesPerYear float64 `yaml:"crashesPerYear"`
	// Times are how long the hosts take for what they are ordered to do.
	Times `yaml:",inline"`
	// Abilities of the agents beside live patches, default all; [live] for none.
	Abilities []string `yaml:"abilities"`
	// Image the machines were made from, default image-1.
	Image string `yaml:"image"`
	// Hot are the modules that are exchanged under load.
	Hot []string `yaml:"hot"`
	// Observe keeps the hosts' agents from acting.
	Observe bool `yaml:"observe"`
	// Foreign is a live patch of somebody else that the hosts carry.
	Foreign string `yaml:"foreign"`

	id    *kernel.ID
	takes takes
	able  []wire.Action
}

// Times of a group's hosts, as durations. Spread is the share by which each
// may be shorter or longer, default 0.
type Times struct {
	Drain   string `yaml:"drain"`   // until out of rotation, default 30s
	Boot    string `yaml:"boot"`    // down when it boots, default 3m
	Replace string `yaml:"replace"` // down while the machine is made anew, default 10m
	Act     string `yaml:"act"`     // to exchange a module or restart a unit, default 10s
	Verify  string `yaml:"verify"`  // for the probes, default 20s
	Warm    string `yaml:"warm"`    // back in rotation until at full strength, default 0s
	Spread  string `yaml:"spread"`
}

// takes are the Times of a group, read.
type takes struct {
	drain, boot, replace, act, verify, warm time.Duration
	spread                                  float64
}

func (t Times) read() (out takes, err error) {
	for _, x := range []struct {
		name, text string
		usual      time.Duration
		into       *time.Duration
	}{
		{"drain", t.Drain, 30 * time.Second, &out.drain}, {"boot", t.Boot, 3 * time.Minute, &out.boot},
		{"replace", t.Replace, 10 * time.Minute, &out.replace}, {"act", t.Act, 10 * time.Second, &out.act},
		{"verify", t.Verify, 20 * time.Second, &out.verify}, {"warm", t.Warm, 0, &out.warm},
	} {
		if *x.into = x.usual; x.text == "" {
			continue
		}
		if *x.into, err = time.ParseDuration(x.text); err != nil {
			return out, fmt.Errorf("read %s: %w", x.name, err)
		}
		if *x.into < 0 {
			return out, fmt.Errorf("read %s: it takes %s", x.name, x.text)
		}
	}
	if out.boot == 0 || out.replace == 0 {
		return out, fmt.Errorf("read boot: it takes no time")
	}
	if t.Spread != "" {
		out.spread, err = parseShare(t.Spread)
	}
	if err == nil && out.spread >= 1 {
		err = fmt.Errorf("read spread: %s is all of it", t.Spread)
	}
	return out, err
}

// out is how long a host is out of service for an action, on average.
func (t takes) out(a policy.Action) time.Duration {
	around := t.drain + t.verify + t.warm
	switch a {
	case policy.Live:
		return 1500 * time.Millisecond // the middle of what load draws
	case policy.Kernel:
		return around + t.boot
	case policy.Replace:
		return around + t.replace
	}
	return around + t.act
}

// MaxHosts bounds a virtual fleet, maxCrashes the crashes of a healthy host in a year.
const (
	MaxHosts   = 5_000_000
	maxCrashes = 100_000
)

// ParseFleet reads a fleet from YAML and refuses unknown fields.
func ParseFleet(data []byte) (Fleet, error) {
	var f Fleet
	if err := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); err != nil {
		return f, fmt.Errorf("read fleet: %s", yaml.FormatError(err, false, false))
	}
	return f, f.Check()
}

// Check refuses a fleet that cannot be.
func (f Fleet) Check() error {
	for _, g := range f.Groups {
		if g.Hosts < 0 || g.Hosts > MaxHosts {
			return fmt.Errorf("read fleet: group %s: %d hosts, want 0 to %d", g.Name, g.Hosts, MaxHosts)
		}
		if !(g.CrashesPerYear >= 0 && g.CrashesPerYear <= maxCrashes) {
			return fmt.Errorf("read fleet: group %s: %v crashes per year, want 0 to %d", g.Name, g.CrashesPerYear, maxCrashes)
		}
	}
	if n := f.Size(); n < 1 || n > MaxHosts {
		return fmt.Errorf("read fleet: %d hosts, want 1 to %d", n, MaxHosts)
	}
	if err := f.checkServices(); err != nil {
		return err
	}
	for _, g := range f.Groups {
		if _, err := g.read(); err != nil {
			return fmt.Errorf("read fleet: group %s: %w", g.Name, err)
		}
		if _, err := g.abilities(); err != nil {
			return fmt.Errorf("read fleet: group %s: %w", g.Name, err)
		}
	}
	return nil
}

func (g Group) abilities() ([]wire.Action, error) {
	if g.Abilities == nil {
		return wire.Actions(), nil
	}
	var out []wire.Action
	for _, name := range g.Abilities {
		switch a := wire.Action(name); {
		case slices.Contains(wire.Actions(), a):
			out = append(out, a)
		case name != wire.ActionLive.String():
			return nil, fmt.Errorf("read abilities: %q is none of live and %v", name, wire.Actions())
		}
	}
	return out, nil
}

// Size is how many hosts the fleet has.
func (f Fleet) Size() int {
	n := 0
	for _, g := range f.Groups {
		n += g.Hosts
	}
	return n
}

// Generated is a fleet of n hosts in services, racks and zones.
func Generated(n int) Fleet {
	rc := max(1, n/100)
	if n < 20 {
		rc = 0
	}
	common := func(tier string) map[string]string {
		return map[string]string{"env": "prod", "tier": tier, "service": "s{n%50}", "rack": tier + "-r{n/40}", "zone": "z{n%3}", "hardware": "h{n%4}"}
	}
	f := Fleet{Groups: []Group{{Name: "prod", Hosts: n - rc, CrashesPerYear: 0.05, Labels: common("prod")}}}
	if rc > 0 {
		f.Groups = append(f.Groups, Group{Name: "rc", Hosts: rc, CrashesPerYear: 0.05, Labels: common("rc")})
	}
	return f
}

// label fills the number of a host into a label.
func label(pattern string, n int) string {
	out := make([]byte, 0, len(pattern)+4)
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '{' || i+2 >= len(pattern) || pattern[i+1] != 'n' {
			out = append(out, pattern[i])
			continue
		}
		value, end := n, i+2
		if op := pattern[i+2]; op == '/' || op == '%' {
			by := 0
			for end = i + 3; end < len(pattern) && pattern[end] >= '0' && pattern[end] <= '9'; end++ {
				by = by*10 + int(pattern[end]-'0')
			}
			if by = max(1, by); op == '/' {
				value = n / by
			} else {
				value = n % by
			}
		}
		if end >= len(pattern) || pattern[end] != '}' {
			out = append(out, pattern[i])
			continue
		}
		out, i = fmt.Append(out, value), end
	}
	return string(out)
}

// hosts makes the virtual hosts.
func (f Fleet) hosts() []host {
	out := make([]host, 0, f.Size())
	intern := map[string]string{}
	for g := range f.Groups {
		group := &f.Groups[g]
		group.takes, _ = group.read() // both were checked when the fleet was read
		group.able, _ = group.abilities()
		id := kernelOf(cmp.Or(group.Kernel, usualKernel))
		group.id = &id
		for n := range group.Hosts {
			labels := make(fleet.Labels, len(group.Labels))
			for k, pattern := range group.Labels {
				v := label(pattern, n)
				if shared, ok := intern[v]; ok {
					v = shared
				} else {
					intern[v] = v
				}
				labels[k] = v
			}
			if l, ok := f.load(labels["service"], Started()); ok {
				labels["load"] = loadLabel(l)
			}
			out = append(out, host{id: fleet.HostID(fmt.Sprintf("%s-%d", group.Name, n)), group: group, labels: labels, kernel: group.id, standard: group.id.Release})
		}
	}
	return out
}

const (
	usualKernel = "6.1.0-55-amd64"
	usualImage  = "image-1"
)

// kernelOf is the identity of a kernel of that release.
func kernelOf(release string) kernel.ID {
	return kernel.ID{Release: release, Version: "#1 SMP simulated", BuildID: "5e" + release}
}

// Work is the fleet as a forecast sees it. Each host is out for the given time;
// for 0, as long as one of its group takes for the target on average.
func (f Fleet) Work(t policy.Target, takes time.Duration) []plan.Work {
	hosts := f.hosts()
	out := make([]plan.Work, len(hosts))
	for i := range hosts {
		out[i] = plan.Work{Labels: hosts[i].labels, Takes: cmp.Or(takes, hosts[i].group.takes.out(t.Action))}
	}
	return out
}
