package kittest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKitsScript runs scripts/kits with a program in afloat's place that ends as it is told.
func TestKitsScript(t *testing.T) {
	script, err := os.ReadFile("../../../scripts/kits")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"scripts/kits":  string(script),
		"scripts/setup": "#!/bin/sh\necho setup $1\ntouch refreshed\n",
		// stale: what a package list of last month is good for.
		"bin/afloat": "#!/bin/sh\ncase $3 in ready) ;; gone) exit 5 ;; stale) [ -e refreshed ] ;; *) exit 1 ;; esac\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct {
		kernels, ci, says string
		refreshes, fails  bool
	}{
		{"ready", "true", "", false, false},
		{"ready stale ready", "true", "", true, false},
		{"gone ready", "true", "going on without gone: the archive", true, false},
		{"ready broken", "true", "broken could not be made", true, true},
		{"broken ready", "", "going on without broken", true, false},
	} {
		os.Remove(filepath.Join(dir, "refreshed"))
		cmd := exec.Command(filepath.Join(dir, "scripts/kits"), strings.Fields(tc.kernels)...)
		cmd.Env = append(os.Environ(), "CI="+tc.ci)
		out, err := cmd.CombinedOutput()
		if (err != nil) != tc.fails || !strings.Contains(string(out), tc.says) {
			t.Errorf("%s, CI=%s: %v, want an error: %v, and %q:\n%s", tc.kernels, tc.ci, err, tc.fails, tc.says, out)
		}
		if n := strings.Count(string(out), "setup --refresh"); n > 1 || n == 1 != tc.refreshes {
			t.Errorf("%s, CI=%s: fetched the lists %d times:\n%s", tc.kernels, tc.ci, n, out)
		}
	}
}
