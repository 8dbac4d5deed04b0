package cli

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/kernel"
)

// TestPassage: up in one step, back with the reason why not.
func TestPassage(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := bundle.Manifest{Kind: bundle.KindLive, Name: "one", Module: "one", Kernel: kernel.ID{Release: "6.1.0-x", Version: "#1", BuildID: "aa"},
		States: []bundle.State{{ID: 0xaf, Version: 1}}, Sources: []bundle.Source{{Name: "a", SHA256: "aa"}}}
	file, err := bundle.Seal(key, m, []byte("module"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "one.afloat")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	next := m
	next.Name, next.States = "two", []bundle.State{{ID: 0xaf, Version: 2}}
	p, err := readPassage(path, &next)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"from one in one step", "back to one with a moment unpatched: it has state 0xaf in version 1, below 2"}
	if diff := cmp.Diff(want, p.lines()); diff != "" || p.Digest != bundle.DigestOf(file) {
		t.Errorf("digest %s, lines (-want +got):\n%s", p.Digest, diff)
	}
}
