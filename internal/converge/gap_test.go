package converge

import (
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"
)

func TestHinders(t *testing.T) {
	a, b := bundle.Source{SHA256: "aa"}, bundle.Source{SHA256: "bb"}
	undo := bundle.Callback{Object: "vmlinux", Kind: "post_unpatch", Function: "undo"}
	begin := bundle.Callback{Object: "vmlinux", Kind: "pre_patch", Function: "begin"}
	at := func(source string) bundle.Callback {
		c := undo
		c.Source = source
		return c
	}
	state := func(version uint32) []bundle.State { return []bundle.State{{ID: 0xaf, Version: version}} }
	for _, tc := range []struct {
		name     string
		from, to bundle.Manifest
		why      string
	}{
		{"code alone", bundle.Manifest{Sources: []bundle.Source{a}}, bundle.Manifest{}, ""},
		{"callbacks that undo nothing", bundle.Manifest{Callbacks: []bundle.Callback{begin}}, bundle.Manifest{}, ""},
		{"a callback that is not there", bundle.Manifest{Sources: []bundle.Source{a, b}, Callbacks: []bundle.Callback{undo}}, bundle.Manifest{Sources: []bundle.Source{a}}, `callback "vmlinux post_unpatch undo"`},
		{"a callback that both have", bundle.Manifest{Sources: []bundle.Source{a, b}, Callbacks: []bundle.Callback{undo}}, bundle.Manifest{Sources: []bundle.Source{a}, Callbacks: []bundle.Callback{begin, undo}}, ""},
		{"a callback whose line moved", bundle.Manifest{Sources: []bundle.Source{a}, Callbacks: []bundle.Callback{at("fs/x.c:7")}}, bundle.Manifest{Callbacks: []bundle.Callback{at("fs/x.c:9")}}, ""},
		{"a callback of that name in another file", bundle.Manifest{Sources: []bundle.Source{a}, Callbacks: []bundle.Callback{at("fs/x.c:7")}}, bundle.Manifest{Callbacks: []bundle.Callback{at("fs/y.c:7")}}, "callback"},
		{"built on it", bundle.Manifest{Sources: []bundle.Source{a}, Callbacks: []bundle.Callback{undo}}, bundle.Manifest{Sources: []bundle.Source{a, b}}, ""},
		{"the same diffs in another order", bundle.Manifest{Sources: []bundle.Source{a, b}, Callbacks: []bundle.Callback{undo}}, bundle.Manifest{Sources: []bundle.Source{b, a}}, "callback"},
		{"built on it, without the state", bundle.Manifest{Sources: []bundle.Source{a}, States: state(1)}, bundle.Manifest{Sources: []bundle.Source{a, b}}, "does not know state 0xaf"},
		{"a lower version", bundle.Manifest{States: state(2)}, bundle.Manifest{States: state(1)}, "version 1, below 2"},
		{"a higher version", bundle.Manifest{States: state(2)}, bundle.Manifest{States: state(3)}, ""},
		{"a state more", bundle.Manifest{}, bundle.Manifest{States: state(3)}, ""},
	} {
		got := TrailOf(&tc.from).Hinders(&tc.to)
		if !strings.Contains(got, tc.why) || (got == "") != (tc.why == "") {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.why)
		}
	}
}

// TestUnpatchedIsMeasured folds a gap: from the disabling of the one to the end of the other's transition.
func TestUnpatchedIsMeasured(t *testing.T) {
	s := succeeding()
	must := func(r Record) {
		t.Helper()
		j, err := s.j.Fold(r)
		if err != nil {
			t.Fatal(err)
		}
		s.j = j
	}
	must(Next(nil, s.j, s.o, s.now).Record)
	s.o.Patches, s.o.Modules, s.o.Permit = nil, nil, nil
	s.now += 300 * time.Millisecond
	must(Next(nil, s.j, s.o, s.now).Record) // removed
	load := Next(nil, s.j, s.o, s.now)
	if load.Kind != Load {
		t.Fatalf("%s: %s", load.Kind, load.Reason)
	}
	must(load.Record)
	loaded := load.Record
	loaded.Kind = RecordLoaded
	must(loaded)
	s.o.Patches, s.o.Modules = []Patch{{Name: "m2", Enabled: true}}, []string{"m2"}
	s.now += 500 * time.Millisecond
	must(Next(nil, s.j, s.o, s.now).Record) // applied
	if s.j.Ending == nil || s.j.Ending.UnpatchedMS != 800 || s.j.Gap != nil {
		t.Errorf("ending is %+v, gap %+v", s.j.Ending, s.j.Gap)
	}
	if a := Next(nil, s.j, s.o, s.now); a.Phase != wire.PhaseApplied || !strings.Contains(a.Reason, "unpatched for 800 ms") {
		t.Errorf("%s: %s", a.Phase, a.Reason)
	}
}

// TestRefusedAfterMakingWay: nothing is applied then, and that is said.
func TestRefusedAfterMakingWay(t *testing.T) {
	s := succeeding()
	s.j.Own, s.o.Patches, s.o.Modules = nil, nil, nil
	s.j.Gap = &Gap{Order: Order{Generation: 8}, Digest: digestOf(2)}
	intent := Next(nil, s.j, s.o, s.now).Record
	failed := intent
	failed.Kind, failed.Reason = RecordFailed, "no such symbol"
	for _, r := range []Record{intent, failed} {
		j, err := s.j.Fold(r)
		if err != nil {
			t.Fatal(err)
		}
		s.j = j
	}
	if a := Next(nil, s.j, s.o, s.now); a.Phase != wire.PhaseFailed || !strings.Contains(a.Reason, "none is applied") {
		t.Errorf("%s: %s", a.Phase, a.Reason)
	}
}
