package kittest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afloat/internal/kit"
)

// A test without its kit is skipped, and named where somebody reads it.
func TestSkippedTestsAreNamed(t *testing.T) {
	if testing.Short() {
		t.Skip("-short skips without a word")
	}
	list := filepath.Join(t.TempDir(), "list")
	t.Setenv("AFLOAT_WITHOUT_KIT", list)
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	const kernel = "debian:6.1.0-1-amd64"
	gone := fmt.Errorf("read source: %w", &kit.NotInArchiveError{What: "linux-source-6.1=1"})
	for name, want := range map[string]func(*testing.T){
		"kit":     func(t *testing.T) { Open(t, kernel) },
		"source":  func(t *testing.T) { Fetched(t, "linux-source-6.1=1", gone) },
		"nothing": func(t *testing.T) { Fetched(t, "x", nil) },
	} {
		skipped := false
		t.Run(name, func(t *testing.T) {
			defer func() { skipped = t.Skipped() }()
			want(t)
		})
		if skipped != (name != "nothing") {
			t.Errorf("%s: skipped: %v", name, skipped)
		}
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"  kittest TestSkippedTestsAreNamed/kit: " + kernel, "  kittest TestSkippedTestsAreNamed/source: linux-source-6.1=1"} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if n := strings.Count(string(text), "\n"); n != 2 {
		t.Errorf("%d lines, want those of the two that were skipped:\n%s", n, text)
	}
}
