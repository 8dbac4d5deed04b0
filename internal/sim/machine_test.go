package sim

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/rollout"
)

const machineFleet = `
groups:
  - {name: web, hosts: 20, labels: {service: web, hardware: "h{n%4}"}, drain: 2m, boot: 4m, verify: 30s, warm: 5m, spread: 20%, hot: [child]}
`

func machinePolicy(target string) string {
	return `
name: act
target: {` + target + `}
waves:
  - {name: canary, size: 10%, soak: 10m}
  - {size: 100%, soak: 10m}
budgets:
  - {name: web, select: service=web, unavailable: 20%}
gate:
  crashes: {falseRevert: 1%, cap: {excess: 1/1000, within: 24h}}
`
}

// TestTargetsThatDisrupt runs every action on virtual hosts, with what can go
// wrong on the way.
func TestTargetsThatDisrupt(t *testing.T) {
	for _, tc := range []struct {
		target, faults string
		phase          rollout.Phase
		says           string // reason or hold
		all            bool   // every host has it in the end
	}{
		{"kernel: 6.1.0-56-amd64", "", rollout.PhaseComplete, "", true},
		{"module: child", "", rollout.PhaseComplete, "", true},
		{"module: parent", "", rollout.PhaseComplete, "", true},
		{"restart: web.service", "", rollout.PhaseComplete, "", true},
		{"replace: image-2", "", rollout.PhaseComplete, "", true},
		{"kernel: 6.1.0-56-amd64", "lost:20% twice:20%", rollout.PhaseComplete, "", true},
		{"replace: image-2", "lost:20% late:20%+3m", rollout.PhaseComplete, "", true},
		{"kernel: 6.1.0-56-amd64", "server-crash@30m+10m", rollout.PhaseComplete, "", true},
		{"kernel: 6.1.0-56-amd64", "owner-drains:20%@1m+50h", rollout.PhaseComplete, "", true},
		{"restart: web.service", "owner-drains:20%@1m+1h", rollout.PhaseComplete, "", true},
		{"kernel: 6.1.0-56-amd64", "stuck-drain:30%", rollout.PhaseRunning, "stuck", false},
		{"kernel: 6.1.0-56-amd64", "boots-old-kernel", rollout.PhaseRunning, "could not apply", false},
		{"kernel: 6.1.0-56-amd64", "probe-fails", rollout.PhaseRunning, "could not apply", false},
		{"restart: web.service", "probe-fails", rollout.PhaseRunning, "could not apply", false},
		{"kernel: 6.1.0-56-amd64", "breaks-next-boot", rollout.PhaseReverted, "crash", false},
		{"kernel: 6.1.0-56-amd64", "breaks-next-boot?hardware=h2", rollout.PhaseReverted, "crash", false},
		{"kernel: 6.1.0-56-amd64", "crash-on-apply", rollout.PhaseReverted, "crash", false},
		{"kernel: 6.1.0-56-amd64", "abort@40m", rollout.PhaseAborted, "", false},
		{"kernel: 6.1.0-56-amd64", "revert@40m", rollout.PhaseReverted, "", false},
		{"module: child, from: child-1", "revert@25m", rollout.PhaseReverted, "", false},
		{"restart: web.service", "revert@25m", rollout.PhaseReverted, "", false}, // what is done is done
	} {
		t.Run(tc.target+" "+tc.faults, func(t *testing.T) {
			fleet, err := ParseFleet([]byte(machineFleet))
			if err != nil {
				t.Fatal(err)
			}
			o := Options{Policy: machinePolicy(tc.target), Fleet: fleet, Seed: 3, Check: true, Horizon: 24 * time.Hour}
			for f := range strings.FieldsSeq(tc.faults) {
				o.Faults = append(o.Faults, fault(t, f))
			}
			res := mustRun(t, o)
			if res.Phase != tc.phase || !strings.Contains(res.Hold+res.Reason, tc.says) || (res.Running == res.Hosts) != tc.all {
				t.Errorf("%s after %s, %d of %d have it; reason %q, holds %q", res.Phase, res.Took, res.Running, res.Hosts, res.Reason, res.Hold)
			}
		})
	}
}

// TestHotModule: an exchange under load takes no host out of rotation.
func TestHotModule(t *testing.T) {
	took := map[string]time.Duration{}
	for _, module := range []string{"child", "parent"} {
		fleet, err := ParseFleet([]byte(machineFleet))
		if err != nil {
			t.Fatal(err)
		}
		took[module] = mustRun(t, Options{Policy: machinePolicy("module: " + module), Fleet: fleet, Seed: 3, Check: true}).Took
	}
	if took["child"] >= took["parent"] {
		t.Errorf("the child took %s under load, its parent %s with drains", took["child"], took["parent"])
	}
}

func TestFleetTimesAreChecked(t *testing.T) {
	for text, want := range map[string]string{
		"drain: soon":        "read drain",
		"boot: 0s":           "takes no time",
		"warm: -1m":          "it takes -1m",
		"spread: 120%":       "all of it",
		"spread: x":          "invalid syntax",
		"abilities: [dance]": "none of live",
		"colour: red":        "unknown field",
	} {
		_, err := ParseFleet([]byte("groups:\n  - {name: a, hosts: 1, " + text + "}\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
