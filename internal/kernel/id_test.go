package kernel

import "testing"

func TestNamed(t *testing.T) {
	id := ID{Release: "6.1.0-55-amd64", Version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-30)"}
	for name, want := range map[string]bool{
		"6.1.0-55-amd64": true, "6.1.192-1": true,
		"": false, "6.1.192": false, "6.1.0-55": false, "6.1.192-10": false, "6.1.0-56-amd64": false,
	} {
		if got := id.Named(name); got != want {
			t.Errorf("%v.Named(%q) = %v", id, name, got)
		}
	}
	if (ID{}).Named("") {
		t.Error("no kernel has no name")
	}
}
