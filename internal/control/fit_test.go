package control

import (
	"strings"
	"testing"

	"afloat/internal/rollout"
)

// An action keeps the live patch that a host runs, so one that was reverted must
// be off before; afterwards, or for a live patch in its place, it is no matter.
func TestRevertedLivePatchComesOffBeforeAnAction(t *testing.T) {
	for _, tt := range []struct {
		name    string
		runs    byte
		phase   rollout.Phase
		blocked bool
	}{
		{"its rollout takes it off", 'a', rollout.PhaseReverting, true},
		{"its rollout is through", 'a', rollout.PhaseReverted, false},
		{"another live patch", 'b', rollout.PhaseReverting, false},
	} {
		s := New()
		s.hosts["h1"] = &Host{Live: digest(tt.runs)}
		s.bad[digest('a')] = Bad{Rollout: "r1"}
		s.rollouts["r1"] = &rollout.Rollout{ID: "r1", Phase: tt.phase}
		b := s.comesOff("h1")
		if (b != nil) != tt.blocked || b != nil && (b.Kind != KindBad || !strings.Contains(b.Reason, "reverted by rollout r1")) {
			t.Errorf("%s: %+v", tt.name, b)
		}
	}
	if b := New().comesOff("unknown"); b != nil {
		t.Errorf("a host of which nothing is known: %+v", b)
	}
}
