package server

import (
	"slices"
	"strings"
	"testing"

	"afloat/internal/control"
	"afloat/internal/wire"
)

// TestLateDebtIsSaid: a host whose agent cannot boot it will miss the deadline,
// and the ledger, the host and the rollout say why.
func TestLateDebtIsSaid(t *testing.T) {
	s := start(t, t.TempDir(), nil)
	g, _ := s.readyForRollout(t)
	if _, err := s.Command(t.Context(), operator, control.Command{Verb: control.Start, Policy: onePolicy + "unavailable: 1\ndebt: {reboot: within 30d}\n"}); err != nil {
		t.Fatal(err)
	}
	var d wire.Desired
	if st, _, err := s.Rollout(t.Context(), "r1"); err != nil || !strings.HasPrefix(st.ETA, "last host done about ") {
		t.Errorf("the eta is %q (%v)", st.ETA, err)
	}
	g.until(t, func() bool { d, _ = g.orders(t); return d.Live != "" })
	g.say(t, func(r *wire.Report) {
		r.Phase, r.Generation = wire.PhaseApplied, d.Generation
		r.Live = []wire.LivePatch{{Name: "afloat_test", Enabled: true, Bundle: d.Live}}
	})
	const want = "1 host must be booted by hand: its agent cannot reboot it"
	g.until(t, func() bool { v, err := s.Debts(t.Context()); return err == nil && len(v.Ledger) == 1 })
	v, err := s.Debts(t.Context())
	if err != nil || len(v.Outlooks) != 1 || !v.Outlooks[0].IsLate(g.id) || !strings.Contains(v.Outlooks[0].Text(), want) {
		t.Errorf("the ledger says %+v, want %q (%v)", v, want, err)
	}
	e, err := s.Explain(t.Context(), string(g.id))
	says := func(r string) bool {
		return strings.HasPrefix(r, "it owes a reboot since ") && strings.Contains(r, want)
	}
	if err != nil || !slices.ContainsFunc(e.Reasons, says) {
		t.Errorf("the host says %q, want %q (%v)", e.Reasons, want, err)
	}
	if st, _, err := s.Rollout(t.Context(), "r1"); err != nil || !strings.Contains(st.Debt, want) {
		t.Errorf("the rollout says %q, want %q (%v)", st.Debt, want, err)
	}
}
