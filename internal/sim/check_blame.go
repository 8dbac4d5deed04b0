package sim

import (
	"slices"

	"afloat/internal/control"
	"afloat/internal/policy"
)

// crashed tests whom a crash counts for: no rollout learns from one under its
// own live patch that hosts without the patch crash as well.
func (c *checker) crashed(e control.CrashEvent) {
	for _, b := range e.Control {
		if b.Rollout != e.Patched && b.Rollout != e.Also && c.rollout(b.Rollout).live[e.Live] {
			c.w.fail("crash %s of host %s counts as one without the patch in rollout %s, under %s, which is that", e.ID, e.Host, b.Rollout, e.Live.Short())
		}
	}
}

// exposure tests that no rollout of a live patch counts more hosts than it has,
// or others keep of it.
func (c *checker) exposure() {
	for _, r := range c.w.state.Rollouts() {
		if r.Policy.Target.Action != policy.Live || r.Policy.Fallback == policy.FallbackReboot { // a boot is no patch
			continue
		}
		has := 0
		for i := range c.w.hosts {
			if h := c.w.state.Host(c.w.hosts[i].id); h.Rollout == r.ID || slices.Contains(r.Bundles, h.Live) {
				has++
			}
		}
		if n := r.Exposure.Running(); n > has {
			c.w.fail("%d hosts count as exposed in rollout %s, %d have its patch", n, r.ID, has)
		}
	}
}
