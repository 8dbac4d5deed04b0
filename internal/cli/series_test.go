package cli

import (
	"errors"
	"fmt"
	"testing"

	"afloat/internal/kit"
)

// Each thing that may be wrong with a real-time kernel's source says what to do about it.
func TestExplainSeries(t *testing.T) {
	hints := map[string]bool{}
	for _, err := range []error{&kit.NoSourceIndexError{File: "linux_1.debian.tar.xz"}, &kit.SourceGoneError{Err: errors.New("404")},
		&kit.HashError{Err: errors.New("mismatch")}, &kit.SeriesError{Err: errors.New("exit status 1")}} {
		h, ok := errors.AsType[*hintError](explainKit(fmt.Errorf("fetch: %w", err)))
		if !ok || hints[h.hint] {
			t.Errorf("%T: hint %+v, want one of its own", err, h)
			continue
		}
		hints[h.hint] = true
	}
	if hint := explainSeries(errors.New("disk full")); hint != "" {
		t.Errorf("any error gets the hint %q", hint)
	}
}
