package rollout

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"afloat/internal/bundle"
	"afloat/internal/policy"
)

var update = flag.Bool("update", false, "write the printed tables anew")

var start = time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)

const source = `name: test
target: {live: fix}
waves:
  - {name: canary, size: 1}
  - {name: rest, size: 100%}
`

func started(t interface{ Fatal(...any) }) *Rollout {
	p, err := policy.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	return New("r1", "root", source, p, start)
}

// TestTableIsPrinted keeps the docs what the code does.
func TestTableIsPrinted(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "reference", "phases.md")
	want := "# Phases of a host in a rollout\n\nGenerated from the one transition table in the code.\n\n" + Table()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// TestTableIsWhole walks the table: every phase can be reached from waiting, a
// host on its way can always be taken back or fail, and nothing follows reverted.
func TestTableIsWhole(t *testing.T) {
	reached := map[HostPhase]bool{Waiting: true}
	for range HostPhases() {
		for _, tr := range Transitions() {
			if reached[tr.From] {
				reached[tr.To] = true
			}
		}
	}
	for _, p := range HostPhases() {
		if !reached[p] {
			t.Errorf("%s cannot be reached", p)
		}
		if p.Acting() && p != Reverting && !CanMove(p, Reverting) {
			t.Errorf("a host that is %s cannot be taken back", p)
		}
		if p.Exposed() && !CanMove(p, Reverting) {
			t.Errorf("a host that has the target (%s) cannot be reverted", p)
		}
		if CanMove(Reverted, p) {
			t.Errorf("%s follows reverted", p)
		}
	}
	seen := map[[2]HostPhase]bool{}
	for _, tr := range Transitions() {
		if key := [2]HostPhase{tr.From, tr.To}; seen[key] || tr.By == "" {
			t.Errorf("%v is there twice, or nothing causes it", tr)
		} else {
			seen[key] = true
		}
	}
}

// TestStepKeepsToTheTable tries every pair of phases: exactly those of the table move.
func TestStepKeepsToTheTable(t *testing.T) {
	for _, from := range HostPhases() {
		for _, to := range HostPhases() {
			r := started(t)
			r.Waves[0].Hosts = map[HostPhase]int{}
			for _, p := range HostPhases() {
				r.Waves[0].Hosts[p] = 1
			}
			err := r.Step(Move{From: from, To: to, N: 1, At: start, Applied: start})
			if (err == nil) != CanMove(from, to) {
				t.Errorf("%s to %s: %v, the table says %v", from, to, err, CanMove(from, to))
			}
			if err != nil && !errors.Is(err, ErrIllegal) {
				t.Errorf("%s to %s: %v is not ErrIllegal", from, to, err)
			}
		}
	}
}

func TestStepRefuses(t *testing.T) {
	for name, m := range map[string]Move{
		"no such wave":            {Wave: 2, From: Waiting, To: Admitted, N: 1},
		"negative wave":           {Wave: -1, From: Waiting, To: Admitted, N: 1},
		"more hosts than it has":  {From: Admitted, To: Applying, N: 1},
		"a phase that is no word": {From: "flying", To: Applying, N: 1},
	} {
		r := started(t)
		before := snapshot(t, r)
		if err := r.Step(m); !errors.Is(err, ErrIllegal) {
			t.Errorf("%s: Step = %v, want ErrIllegal", name, err)
		}
		if diff := cmp.Diff(before, snapshot(t, r)); diff != "" && name != "more hosts than it has" {
			t.Errorf("%s: a refused step changed the state:\n%s", name, diff)
		}
	}
}

// TestWavesGoInOrder: never two waves open, none twice, none after the last.
func TestWavesGoInOrder(t *testing.T) {
	r := started(t)
	steps := []struct {
		wave int
		what WaveWhat
		ok   bool
	}{
		{1, WaveOpens, false}, {0, WaveCloses, false}, {0, WaveOpens, true}, {0, WaveOpens, false}, {1, WaveOpens, false},
		{0, WaveSoaks, true}, {0, WaveCloses, true}, {0, WaveOpens, false}, {1, WaveOpens, true}, {1, WaveCloses, true}, {2, WaveOpens, false},
	}
	for i, s := range steps {
		err := r.StepWave(WaveEvent{Wave: s.wave, What: s.what}, start.Add(time.Duration(i)*time.Minute))
		if (err == nil) != s.ok {
			t.Errorf("step %d: wave %d %s: %v, want ok %v", i, s.wave, s.what, err, s.ok)
		}
	}
	if i, _ := r.Current(); i != 2 || !r.Over(0) || !r.Over(1) {
		t.Errorf("after all waves the current one is %d", i)
	}
}

// TestPhasesOfARollout: an ended rollout admits nobody, and only reverting leaves aborted.
func TestPhasesOfARollout(t *testing.T) {
	all := []Phase{PhaseRunning, PhasePaused, PhaseComplete, PhaseAborted, PhaseReverting, PhaseReverted}
	for _, from := range all {
		for _, to := range all {
			r := started(t)
			r.Phase = from
			err := r.StepPhase(Change{Phase: to, Reason: "test"}, start)
			if want := from == to || from.CanGo(to); (err == nil) != want {
				t.Errorf("%s to %s: %v, want ok %v", from, to, err, want)
			}
		}
		if from.Over() && from.Open() {
			t.Errorf("%s is over and admits hosts", from)
		}
		if from == PhaseReverted && slices.ContainsFunc(all, func(p Phase) bool { return from.CanGo(p) }) {
			t.Error("something follows reverted")
		}
	}
}

// TestCountsNeverLie takes random allowed steps: hosts are neither made nor
// lost, and a snapshot restored half way ends in the same state.
func TestCountsNeverLie(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, taken := started(t), 0
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			tr := rapid.SampledFrom(Transitions()).Draw(t, "transition")
			n := rapid.IntRange(1, 4).Draw(t, "hosts")
			at := start.Add(time.Duration(i) * time.Second)
			m := Move{From: tr.From, To: tr.To, N: n, At: at, Applied: start, Live: bundle.DigestOf([]byte("x"))}
			if r.Step(m) != nil {
				continue
			}
			if tr.From == Waiting {
				taken += n
			}
			if tr.To == Waiting {
				taken -= n
			}
			if got := r.Taken(0); got != taken {
				t.Fatalf("step %d: %d hosts in the wave, %d were let in", i, got, taken)
			}
		}
		var again Rollout
		if err := json.Unmarshal(snapshot(t, r), &again); err != nil {
			t.Fatal(err)
		}
		if err := again.Restore(nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(snapshot(t, r), snapshot(t, &again), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("restored (-before +after):\n%s", diff)
		}
	})
}

func snapshot(t interface{ Fatal(...any) }, r *Rollout) []byte {
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
