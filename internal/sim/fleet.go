// Package sim runs a virtual fleet in virtual time: hosts with the agent's own
// brain (converge), the server's own turn (control), and faults drawn from a
// seed. The same seed gives the same run.
package sim

import (
	"fmt"
	"math"
	"time"

	"github.com/goccy/go-yaml"

	"afloat/internal/fleet"
	"afloat/internal/kernel"
	"afloat/internal/plan"
)

// Fleet describes a virtual fleet: groups of like hosts.
type Fleet struct {
	Groups []Group `yaml:"groups"`
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
	// Boot is how long a host is down when it boots, default 3m.
	Boot string `yaml:"boot"`
	// Observe keeps the hosts' agents from acting.
	Observe bool `yaml:"observe"`
	// Foreign is a live patch of somebody else that the hosts carry.
	Foreign string `yaml:"foreign"`

	id kernel.ID
}

// maxHosts bounds a fleet.
const maxHosts = 5_000_000

// ParseFleet reads a fleet from YAML and refuses unknown fields.
func ParseFleet(data []byte) (Fleet, error) {
	var f Fleet
	if err := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); err != nil {
		return f, fmt.Errorf("read fleet: %s", yaml.FormatError(err, false, false))
	}
	return f, f.check()
}

func (f Fleet) check() error {
	if f.Size() == 0 {
		return fmt.Errorf("read fleet: no hosts")
	}
	if f.Size() > maxHosts {
		return fmt.Errorf("read fleet: %d hosts, at most %d", f.Size(), maxHosts)
	}
	for _, g := range f.Groups {
		if g.Hosts < 0 || math.IsNaN(g.CrashesPerYear) || g.CrashesPerYear < 0 {
			return fmt.Errorf("read fleet: group %s: negative number", g.Name)
		}
		if _, err := g.bootTime(); err != nil {
			return fmt.Errorf("read fleet: group %s: %w", g.Name, err)
		}
	}
	return nil
}

func (g Group) bootTime() (time.Duration, error) {
	if g.Boot == "" {
		return 3 * time.Minute, nil
	}
	d, err := time.ParseDuration(g.Boot)
	if err == nil && d <= 0 {
		err = fmt.Errorf("boot takes %s", d)
	}
	return d, err
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
		boot, _ := group.bootTime() // checked when the fleet was read
		group.id = kernelOf(group)
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
			out = append(out, host{id: fleet.HostID(fmt.Sprintf("%s-%d", group.Name, n)), group: group, labels: labels, boot: boot})
		}
	}
	return out
}

// kernelOf is the kernel identity of a group's hosts.
func kernelOf(g *Group) kernel.ID {
	release := g.Kernel
	if release == "" {
		release = "6.1.0-55-amd64"
	}
	return kernel.ID{Release: release, Version: "#1 SMP simulated", BuildID: "5e" + release}
}

// Work is the fleet as a forecast sees it, each host out for the given time.
func (f Fleet) Work(takes time.Duration) []plan.Work {
	hosts := f.hosts()
	out := make([]plan.Work, len(hosts))
	for i := range hosts {
		out[i] = plan.Work{Labels: hosts[i].labels, Takes: takes}
	}
	return out
}
