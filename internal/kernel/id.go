// Package kernel describes one exact kernel build: its identity, its symbols,
// the sizes of its special-section entries and the symbols it exports. It only
// parses: every reader takes an io.ReaderAt or an io.Reader that the caller
// opened. It never runs a tool and never looks at the running machine.
package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ID is one exact kernel build as a running host can tell it. A release alone
// is not enough: distributions rebuild the same release with other sources.
type ID struct {
	// Release is what `uname -r` prints: 6.1.0-55-amd64.
	Release string `json:"release" yaml:"release"`
	// Version is what `uname -v` prints: #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-30).
	Version string `json:"version" yaml:"version"`
	// BuildID is the GNU build id of vmlinux in lower-case hex, from the
	// .notes section or /sys/kernel/notes.
	BuildID string `json:"build_id" yaml:"build_id"`
}

// ErrIncomplete says that an ID lacks a part, so that nothing may be matched against it.
var ErrIncomplete = errors.New("kernel identity is incomplete")

// Validate returns ErrIncomplete, wrapped with the missing part, unless all parts are there.
func (id ID) Validate() error {
	for _, part := range []struct{ name, value string }{
		{"release", id.Release}, {"version", id.Version}, {"build id", id.BuildID},
	} {
		if strings.TrimSpace(part.value) == "" {
			return fmt.Errorf("%w: no %s", ErrIncomplete, part.name)
		}
	}
	return nil
}

// Mismatch says in which part two identities differ, or "" when they are the
// same kernel. An incomplete identity never matches.
func (id ID) Mismatch(other ID) string {
	if err := id.Validate(); err != nil {
		return err.Error()
	}
	if err := other.Validate(); err != nil {
		return err.Error()
	}
	switch {
	case id.Release != other.Release:
		return fmt.Sprintf("release %s is not %s", other.Release, id.Release)
	case id.Version != other.Version:
		return fmt.Sprintf("version %q is not %q", other.Version, id.Version)
	case id.BuildID != other.BuildID:
		return fmt.Sprintf("build id %s is not %s", other.BuildID, id.BuildID)
	}
	return ""
}

// Named says whether name means this kernel: its release, or a word of its
// version, which is where distributions put the package version.
func (id ID) Named(name string) bool {
	return name != "" && (id.Release == name || slices.Contains(strings.Fields(id.Version), name))
}

// String is the short form for people: release and the head of the build id.
func (id ID) String() string {
	return fmt.Sprintf("%s (build %.12s)", id.Release, id.BuildID)
}
