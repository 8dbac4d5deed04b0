package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestDemo plays the demo as `make demo` does, and then twice with something
// broken on purpose: were its checks blind, its success would prove nothing.
func TestDemo(t *testing.T) {
	w := newWorld(t)
	w.kit(amd64)
	t.Run("as it is meant", func(t *testing.T) {
		last, out, err := playDemo(t.Context())
		if err != nil || last.failed != 0 || last.requests == 0 {
			t.Errorf("%v: %+v\n%s", err, last, out)
		}
	})
	t.Run("revert broken", func(t *testing.T) {
		last, out, err := playDemo(t.Context(), "--break", "revert", "--patience", "30s")
		if err == nil || !strings.HasPrefix(last.bad, "loaded-on-h") {
			t.Errorf("the demo did not see that the patch stayed: %v: %+v\n%s", err, last, out)
		}
	})
	t.Run("host cut off", func(t *testing.T) {
		last, out, err := playDemo(t.Context(), "--break", "cut", "--limit", "2m")
		if err == nil || last.failed == 0 {
			t.Errorf("the demo did not see requests fail: %v: %+v\n%s", err, last, out)
		}
	})
}

// demoLine is what the test needs of the demo's last line.
type demoLine struct {
	requests, failed int
	bad              string
}

var demoPattern = regexp.MustCompile(`(?m)^demo: hosts=3 patched=\d+ requests=(\d+) failed=(\d+) bad_patch=(\S+) exposed=\d+ apply_ms_p50=\d+ seconds=\d+$`)

func playDemo(ctx context.Context, flags ...string) (demoLine, string, error) {
	args := append([]string{"lab", "demo", "--kernel", amd64}, flags...)
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "afloat"), args...)
	cmd.Env = os.Environ()
	out, err := cmd.CombinedOutput()
	m := demoPattern.FindStringSubmatch(string(out))
	if m == nil {
		return demoLine{}, string(out), err
	}
	requests, _ := strconv.Atoi(m[1]) // the pattern lets only digits pass
	failed, _ := strconv.Atoi(m[2])
	return demoLine{requests, failed, m[3]}, string(out), err
}
