package plan

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/gate"
)

// What a wave cannot show is said before the rollout begins; one that must
// show it waits for it, and one that never can says so.
func TestForecastOfTheGate(t *testing.T) {
	const waves = "waves: [{name: canary, size: 10%, soak: 1h}, {name: all, size: 100%, soak: 1h}]\n"
	hosts := works(100_000, time.Second, service("x"))
	f := Ahead(reboot(t, waves), hosts, saturday)
	canary := f.Waves[0]
	if canary.Verdict != gate.LevelInconclusive || canary.Shown != 10_000 || !strings.HasPrefix(canary.Lacks, "10000 of 5307 hosts and 347.7 of 27564") {
		t.Errorf("the canary is planned as %+v", canary)
	}
	f = Ahead(reboot(t, waves+"gate: {onInconclusive: hold}\n"), hosts, saturday)
	// 27,564 host-days on 10,000 hosts, after the ten minutes.
	if got := f.Waves[0]; got.Verdict != gate.LevelGo || got.Ends < 60*time.Hour || got.Ends > 70*time.Hour || f.Waves[1].Opens != got.Ends {
		t.Errorf("a canary that must show it is planned as %+v", got)
	}
	if b := f.Bounds[0]; b.Name != "gate" || !strings.Contains(b.Why, "wave canary holds until its 10000 hosts have shown") || f.Gap() < 0 || f.Gap() > 0.01 {
		t.Errorf("%v above the bound %+v", f.Gap(), b)
	}
	f = Ahead(reboot(t, waves+"gate: {onInconclusive: hold}\n"), hosts[:2000], saturday)
	const want = "wave canary ends only when a person resumes it: the gate takes 5307 hosts to be sure, 200 will have the patch (onInconclusive: hold)"
	if f.Stuck != want || f.Left != 1800 {
		t.Errorf("%d left, %q, want %q", f.Left, f.Stuck, want)
	}
}

// The control arm waits for the evidence or for its time, whichever is first.
func TestForecastOfTheControlArm(t *testing.T) {
	const waves = "waves: [{name: all, size: 100%}]\ngate: {control: {size: 5%, by: 72h}}\n"
	for hosts, want := range map[int][2]time.Duration{
		2000:    {72 * time.Hour, 72 * time.Hour},
		100_000: {6 * time.Hour, 8 * time.Hour}, // 27,564 host-days on 95,000 hosts
	} {
		f := Ahead(reboot(t, waves), works(hosts, time.Second, service("x")), saturday)
		if got := f.Waves[1]; got.Name != "control" || got.Opens < want[0] || got.Opens > want[1] || got.Hosts != hosts/20 {
			t.Errorf("of %d hosts the control arm is planned as %+v, want it to open within %s", hosts, got, want)
		}
		if f.Gap() < 0 || f.Bounds[0].Name != "control arm" {
			t.Errorf("%v above the bound %+v", f.Gap(), f.Bounds[0])
		}
	}
}
