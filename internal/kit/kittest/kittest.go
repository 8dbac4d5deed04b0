// Package kittest gives tests the kits that this machine has.
package kittest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"afloat/internal/kit"
)

// Open returns a kernel's kit from the user's cache, or skips the test: making
// a kit is for `make kits`, and archives drop old kernels.
func Open(t testing.TB, kernel string) *kit.Kit {
	t.Helper()
	ref, err := kit.ParseRef(kernel)
	if err != nil {
		t.Fatal(err)
	}
	k, err := Cache(t).Open(ref)
	switch {
	case errors.Is(err, kit.ErrNoKit):
		skip(t, kernel, fmt.Errorf("%w; `afloat kernel fetch %s` gets one", err, kernel))
	case err != nil:
		t.Fatal(err)
	}
	return k
}

// Cache is the user's cache of kits; -short skips tests that ask for it.
func Cache(t testing.TB) *kit.Cache {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a kernel's kit, which -short leaves alone")
	}
	dir, err := kit.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	return &kit.Cache{Dir: dir, DebDir: os.Getenv("AFLOAT_DEB_DIR")}
}

// Fetched ends the test for an error of asking the archive for what: skipped
// where the archive does not have it or is out of reach, else failed.
func Fetched(t testing.TB, what string, err error) {
	t.Helper()
	switch {
	case kit.Absent(err):
		skip(t, what, err)
	case err != nil:
		t.Fatal(err)
	}
}

// skip also leaves a line in the file that AFLOAT_WITHOUT_KIT names: go test
// does not tell of skipped tests, and `make test` ends with that file.
func skip(t testing.TB, what string, why error) {
	t.Helper()
	if path := os.Getenv("AFLOAT_WITHOUT_KIT"); path != "" {
		if err := note(path, t.Name()+": "+what); err != nil {
			t.Fatal(err)
		}
	}
	t.Skipf("no %s: %v", what, why)
}

func note(path, text string) error {
	dir, err := os.Getwd() // of the tested package
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "  %s %s\n", filepath.Base(dir), text)
	return errors.Join(err, f.Close())
}
