// Package kittest gives tests the kits that this machine has.
package kittest

import (
	"testing"

	"afloat/internal/kit"
)

// Open returns a kernel's kit from the user's cache, or skips the test: making
// a kit is for `make kits`, and archives drop old kernels.
func Open(t testing.TB, kernel string) *kit.Kit {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a kernel's kit, which -short leaves alone")
	}
	ref, err := kit.ParseRef(kernel)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := kit.DefaultDir()
	if err != nil {
		t.Skip("no cache folder: ", err)
	}
	k, err := (&kit.Cache{Dir: dir}).Open(ref)
	if err != nil {
		t.Skipf("no kit (%v); `afloat kernel fetch %s` gets one", err, kernel)
	}
	return k
}
