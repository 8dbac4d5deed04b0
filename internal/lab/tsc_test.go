package lab

import (
	"runtime"
	"testing"
)

func TestTSCRateIsSteady(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("not an x86-64 machine")
	}
	a, b := tscKHz(), tscKHz()
	if a < 500_000 || a > 10_000_000 {
		t.Errorf("counter runs at %d kHz, want a processor's rate", a)
	}
	if diff := max(a, b) - min(a, b); diff > a/200 {
		t.Errorf("two measurements differ by over 0.5%%: %d and %d kHz", a, b)
	}
}
