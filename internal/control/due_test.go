package control

import (
	"testing"
	"time"

	"afloat/internal/rollout"
)

// Evidence is enough by time alone: Due says when, though nothing is heard.
func TestDueTellsWhenEvidenceIsEnough(t *testing.T) {
	for _, tt := range []struct {
		name, policy string
		follows      func(Record) bool
	}{
		{"a control arm that waits", "waves: [{size: 100%, soak: 10m}]\ngate: {control: {size: 50%, by: 1000h}}",
			func(r Record) bool { return len(r.Waves) == 1 && r.Waves[0].What == rollout.WaveOpens }},
		{"held as inconclusive", "waves: [{size: 50%, soak: 10m}, {size: 100%}]\ngate: {onInconclusive: hold}",
			func(r Record) bool { return len(r.Changes) == 1 && r.Changes[0].Hold == "" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, 4)
			id := l.start("good", tt.policy)
			for range 5 {
				l.tick(10 * time.Minute)
			}
			l.s.Rollout(id).Exposure.Add(40_000, l.now) // as in a fleet that is large enough to tell
			l.beat(time.Minute)
			began, rec := l.now, Record{}
			for range 2000 {
				due, ok := Due(l.s, l.v, l.now)
				if !ok {
					t.Fatal("nothing is due any more")
				}
				l.now = later(due, l.now.Add(time.Second))
				for _, id := range l.ids {
					l.v.Heard(id, l.now)
				}
				if rec = l.decide(); !rec.Empty() {
					break
				}
			}
			if after := l.now.Sub(began); !tt.follows(rec) || after < time.Hour {
				t.Fatalf("after %s follows %+v", after, rec)
			}
			l.v.memo = nil
			if rec := Decide(l.s, l.v, l.now.Add(-3*time.Second)); !rec.Empty() {
				t.Errorf("it was enough seconds before, and nothing was due: %+v", rec)
			}
		})
	}
}
