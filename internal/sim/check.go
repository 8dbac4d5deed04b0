package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"afloat/internal/control"
	"afloat/internal/fleet"
	"afloat/internal/policy"
	"afloat/internal/rollout"
	"afloat/internal/wire"
)

// checker tests every record against what must always hold, counting for
// itself: it shares no sum with the planner or the rollout.
type checker struct {
	w     *world
	phase map[fleet.HostID]rollout.HostPhase
	gen   map[fleet.HostID]uint64
}

func newChecker(w *world) *checker {
	return &checker{w: w, phase: map[fleet.HostID]rollout.HostPhase{}, gen: map[fleet.HostID]uint64{}}
}

// told sees every order that a host gets.
func (c *checker) told(h *host, d wire.Desired) {
	if d.Generation < c.gen[h.id] {
		c.w.fail("host %s: generation %d after %d", h.id, d.Generation, c.gen[h.id])
	}
	c.gen[h.id] = d.Generation
}

// before tests a record against the state that it was decided on.
func (c *checker) before(rec control.Record) {
	for _, m := range rec.Moves {
		for _, id := range m.Hosts {
			was := c.phase[id]
			if m.To == rollout.Admitted {
				c.admitted(id, was, m)
			}
			if was != "" && was != rollout.Done && !rollout.CanMove(was, m.To) && !rollout.CanMove(rollout.Done, m.To) {
				c.w.fail("host %s goes from %s to %s", id, was, m.To)
			}
			c.phase[id] = m.To
		}
	}
}

// admitted tests one admission: the host is fit, idle, and its rollout open.
func (c *checker) admitted(id fleet.HostID, was rollout.HostPhase, m control.Move) {
	if was.Acting() {
		c.w.fail("host %s is admitted while %s", id, was)
	}
	r := c.w.state.Rollout(m.Rollout)
	if r == nil || !r.Phase.Open() || r.Hold != "" {
		c.w.fail("host %s is admitted to rollout %s which is not open", id, m.Rollout)
		return
	}
	if i, opened := r.Current(); m.Wave > i || m.Wave == i && !opened {
		c.w.fail("host %s is admitted to wave %d while wave %d is open (%v)", id, m.Wave, i, opened)
	}
	seen := c.w.view.Host(id)
	now := c.w.at(c.w.now)
	switch {
	case seen == nil || seen.Report.Boot == "":
		c.w.fail("host %s is admitted on no data", id)
	case now.Sub(seen.Heard) > r.Policy.Timeouts.Silent:
		c.w.fail("host %s is admitted though silent since %s", id, seen.Heard)
	case seen.Report.Mode != fleet.ModeAct || seen.Report.Stopped:
		c.w.fail("host %s is admitted against its owner's will", id)
	case !r.Policy.Select.Matches(seen.Labels):
		c.w.fail("host %s is admitted and not selected", id)
	}
	for _, l := range seen.Report.Live {
		if l.Bundle == "" {
			c.w.fail("host %s is admitted with the foreign live patch %s", id, l.Name)
		}
	}
	if open, why, _ := r.Policy.Open(now); !open {
		c.w.fail("host %s is admitted %s", id, why)
	}
}

// after tests what must hold once a record is applied.
func (c *checker) after(rec control.Record) {
	for _, r := range c.w.state.Rollouts() {
		open := 0
		for _, w := range r.Waves {
			if !w.Opened.IsZero() && w.Closed.IsZero() {
				open++
			}
		}
		if open > 1 {
			c.w.fail("%d waves of rollout %s are open", open, r.ID)
		}
	}
	for _, m := range rec.Moves {
		if m.To == rollout.Admitted {
			c.budgets(c.w.state.Rollout(m.Rollout), m)
			return
		}
	}
}

// budgets counts by hand how many hosts are out in each group that a host of m
// belongs to.
func (c *checker) budgets(r *rollout.Rollout, m control.Move) {
	now := c.w.at(c.w.now)
	for _, b := range r.Policy.Budgets {
		total, out, cold, starts := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
		for _, id := range c.w.view.Hosts() {
			seen := c.w.view.Host(id)
			if !r.Policy.Select.Matches(seen.Labels) && c.w.state.Host(id).Rollout != r.ID || !b.Select.Matches(seen.Labels) {
				continue
			}
			value, ok := seen.Labels[b.GroupBy]
			if b.GroupBy != "" && !ok {
				continue
			}
			h := c.w.state.Host(id)
			total[value]++
			if h.Phase.Acting() || now.Sub(seen.Heard) > r.Policy.Timeouts.Silent || seen.Report.Boot == "" {
				out[value]++
			}
			if b.Warm > 0 && !h.Applied.IsZero() && now.Sub(h.Applied) < b.Warm {
				cold[value]++
			}
			if !b.Starts.Zero() && now.Sub(h.Started) < b.Starts.Per {
				starts[value]++
			}
		}
		c.compare(b, m, total, out, cold, starts)
	}
}

func (c *checker) compare(b policy.Budget, m control.Move, total, out, cold, starts map[string]int) {
	touched, busy := map[string]bool{}, 0
	for _, id := range m.Hosts {
		seen := c.w.view.Host(id)
		value, ok := seen.Labels[b.GroupBy]
		if b.Select.Matches(seen.Labels) && (b.GroupBy == "" || ok) {
			touched[value] = true
		}
	}
	for value := range out {
		if out[value] > 0 {
			busy++
		}
	}
	for value := range touched {
		if limit := b.Unavailable.Of(total[value]); !b.Unavailable.Zero() && out[value]+cold[value] > limit {
			c.w.fail("budget %s %s: %d of %d are out and %d cold, at most %d may be", b.Name, value, out[value], total[value], cold[value], limit)
		}
		if !b.Starts.Zero() && starts[value] > b.Starts.N {
			c.w.fail("budget %s %s: %d started in %s, at most %d may", b.Name, value, starts[value], b.Starts.Per, b.Starts.N)
		}
	}
	if b.Domains > 0 && len(touched) > 0 && busy > b.Domains {
		c.w.fail("budget %s: %d domains are out, at most %d may be", b.Name, busy, b.Domains)
	}
}

// replayed is the state as the log gives it.
func (c *checker) replayed() *control.State {
	s := control.New()
	for _, data := range c.w.log {
		var rec control.Record
		err := json.Unmarshal(data, &rec)
		if err == nil {
			err = s.Apply(rec)
		}
		if err != nil {
			c.w.fail("replay: %v", err)
			return s
		}
	}
	return s
}

// end compares the state with its replay.
func (c *checker) end() {
	want, err1 := c.w.state.Snapshot()
	got, err2 := c.replayed().Snapshot()
	if err1 != nil || err2 != nil || !bytes.Equal(want, got) {
		c.w.fail("the replay of %d records differs: %v %v", len(c.w.log), err1, err2)
	}
}

// Replay is the command that plays a run again.
func Replay(policy, fleet string, o Options) string {
	var s strings.Builder
	s.WriteString(fmt.Sprintf("afloat sim %s --fleet %s --seed %d", policy, fleet, o.Seed))
	for _, f := range o.Faults {
		s.WriteString(fmt.Sprintf(" --fault %q", f.String()))
	}
	if o.Horizon > 0 {
		s.WriteString(" --horizon " + o.Horizon.Round(time.Second).String())
	}
	return s.String()
}
