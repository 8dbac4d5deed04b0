package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite what the scenarios expect; review the diff")

// TestScenarios plays each file of testdata: prose, policy.yaml, later policies
// as DURATION.yaml, fleet.yaml, horizon, faults (one per line) and want, the
// story as it must come out.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { scenario(t, file) })
	}
}

func scenario(t *testing.T, file string) {
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	part := map[string]string{}
	for _, f := range a.Files {
		part[f.Name] = string(f.Data)
	}
	o := Options{Policy: part["policy.yaml"], Seed: 1, Check: true, Horizon: 96 * time.Hour}
	if text := strings.TrimSpace(part["horizon"]); text != "" {
		if o.Horizon, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if o.Fleet, err = ParseFleet([]byte(part["fleet.yaml"])); err != nil {
		t.Fatal(err)
	}
	for _, f := range a.Files {
		if at, err := time.ParseDuration(strings.TrimSuffix(f.Name, ".yaml")); err == nil {
			o.Also = append(o.Also, Start{Policy: string(f.Data), At: at})
		}
	}
	for line := range strings.Lines(part["faults"]) {
		o.Faults = append(o.Faults, fault(t, strings.TrimSpace(line)))
	}
	got := story(mustRun(t, o))
	if *update {
		for i := range a.Files {
			if a.Files[i].Name == "want" {
				a.Files[i].Data = []byte(got)
			}
		}
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(part["want"], got); diff != "" {
		t.Errorf("the story differs (-want +got); -update rewrites it:\n%s", diff)
	}
}

// story is a run for people to review.
func story(res Result) string {
	var b strings.Builder
	for _, m := range res.Moments {
		fmt.Fprintf(&b, "%9s  %s\n", m.At.Round(time.Second), m.Text)
	}
	fmt.Fprintf(&b, "%s after %s; %d of %d hosts had it, %d run it; %d crashes by the patch, %d held against it\n",
		res.Phase, res.Took.Round(time.Second), res.Exposed, res.Hosts, res.Running, res.Crashes, res.Counted)
	for _, reason := range slices.Sorted(maps.Keys(res.Waits)) {
		fmt.Fprintf(&b, "%d wait: %s\n", res.Waits[reason], reason)
	}
	for n, running := range res.Later {
		fmt.Fprintf(&b, "%d of %d hosts have the target of rollout %d\n", running, res.Hosts, n+2)
	}
	if res.Peak > 0 {
		fmt.Fprintf(&b, "out of service at once: at most %d\n", res.Peak)
	}
	return b.String()
}
