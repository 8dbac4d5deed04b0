package build

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
	"afloat/internal/klpmod"
	"afloat/internal/patch"
)

func testKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func earlierManifest(diff string) bundle.Manifest {
	return bundle.Manifest{Kind: bundle.KindLive, Name: "first", Module: "afloat_first", CVEs: []string{"CVE-1", "CVE-2"},
		Kernel:  kernel.ID{Release: "6.1.0-x", Version: "#1", BuildID: "aa"},
		Sources: []bundle.Source{{Name: "one.patch", SHA256: hexSum([]byte("one")), Diff: diff}}, Created: time.Unix(0, 0).UTC()}
}

func TestReadEarlier(t *testing.T) {
	public, key := testKey(t)
	stranger, _ := testKey(t)
	file, err := bundle.Seal(key, earlierManifest("one"), []byte("module"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadEarlier(file, stranger, public)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != bundle.DigestOf(file) || got.Manifest.Sources[0].Diff != "one" {
		t.Errorf("read %+v", got)
	}
	if _, err := ReadEarlier(file, stranger); !errors.Is(err, bundle.ErrUnknownPublisher) {
		t.Errorf("another publisher: %v, want ErrUnknownPublisher", err)
	}
	if _, err := ReadEarlier(file[1:], public); !errors.Is(err, bundle.ErrDamaged) {
		t.Errorf("damaged: %v, want ErrDamaged", err)
	}
	none := earlierManifest("one")
	none.Sources = nil
	for name, m := range map[string]bundle.Manifest{"another diff": earlierManifest("two"), "no diffs": none} {
		file, err := bundle.Seal(key, m, []byte("module"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadEarlier(file, public); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestTakeUp(t *testing.T) {
	m := earlierManifest("one")
	o := Options{Kit: &kit.Kit{Info: kit.Info{ID: m.Kernel}}, On: &Earlier{Manifest: m}, CVEs: []string{"CVE-2", "CVE-3"},
		Patches: []Input{{Name: "two.patch", Text: []byte("two")}}}
	if err := o.takeUp(); err != nil {
		t.Fatal(err)
	}
	want := []Input{{Name: "one.patch", Text: []byte("one")}, {Name: "two.patch", Text: []byte("two")}}
	if d := cmp.Diff(want, o.Patches); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"CVE-1", "CVE-2", "CVE-3"}, o.CVEs); d != "" {
		t.Error(d)
	}
	if o.Reboot != "" {
		t.Errorf("reboot %q, nobody wants one", o.Reboot)
	}
	m.Reboot = bundle.RebootRequired
	for _, mine := range []bundle.Reboot{"", bundle.RebootPromptly, bundle.RebootRequired} {
		o := Options{Kit: o.Kit, On: &Earlier{Manifest: m}, Reboot: mine}
		if err := o.takeUp(); err != nil || o.Reboot != bundle.RebootRequired {
			t.Errorf("on one that requires a reboot, %q becomes %q (%v)", mine, o.Reboot, err)
		}
	}
	for name, id := range map[string]kernel.ID{
		"release": {Release: "6.1.0-y", Version: "#1", BuildID: "aa"}, "build id": {Release: "6.1.0-x", Version: "#1", BuildID: "bb"}, "nothing": {},
	} {
		o := Options{Kit: &kit.Kit{Info: kit.Info{ID: id}}, On: &Earlier{Manifest: m}}
		if e, ok := errors.AsType[*OtherKernelError](o.takeUp()); !ok || e.Bundle != "first" {
			t.Errorf("another %s: %+v, want OtherKernelError", name, e)
		}
	}
}

// A patch that does not fit names the one that is in its way, if there is one.
func TestClash(t *testing.T) {
	read := func(path string) ([]byte, error) {
		if path == "f/x.c" {
			return []byte("a\nb\nc\nd\ne\nf\ng\nh\n"), nil
		}
		return nil, fmt.Errorf("read %s: %w", path, fs.ErrNotExist)
	}
	hunk := func(body string) string { return "--- a/f/x.c\n+++ b/f/x.c\n" + body }
	b, g := hunk("@@ -2 +2 @@\n-b\n+B\n"), hunk("@@ -7 +7 @@\n-g\n+G\n")
	for _, tc := range []struct {
		name    string
		diffs   []string
		earlier int // diffs of the earlier bundle
		patch   string
		with    string // "" where none of the others is the reason
		inOther bool
	}{
		{"earlier bundle", []string{b, g, hunk("@@ -1,3 +1,3 @@\n a\n-b\n+X\n c\n")}, 2, "p2", "p0", true},
		{"among the new", []string{g, b, hunk("@@ -1,3 +1,3 @@\n a\n-b\n+X\n c\n")}, 1, "p2", "p1", false},
		{"given twice", []string{g, g}, 1, "p1", "p0", true},
		{"another source", []string{b, hunk("@@ -5 +5 @@\n-q\n+r\n")}, 1, "p1", "", false},
		{"the first", []string{hunk("@@ -5 +5 @@\n-q\n+r\n"), b}, 0, "p0", "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var patches []*patch.Patch
			for i, d := range tc.diffs {
				p, err := patch.Parse(fmt.Sprintf("p%d", i), []byte(d))
				if err != nil {
					t.Fatal(err)
				}
				patches = append(patches, p)
			}
			o := Options{On: &Earlier{Manifest: bundle.Manifest{Sources: make([]bundle.Source, tc.earlier)}}}
			_, err := o.applyAll(read, patches)
			conflict, ok := errors.AsType[*patch.ConflictError](err)
			if !ok || conflict.Patch != tc.patch || conflict.Hunk != 1 {
				t.Fatalf("error %v, want a conflict of %s in hunk 1", err, tc.patch)
			}
			clash, _ := errors.AsType[*ClashError](err)
			if clash == nil {
				clash = &ClashError{}
			}
			if clash.With != tc.with || clash.Earlier != tc.inOther {
				t.Errorf("conflicts with %q, earlier %v; want %q, %v", clash.With, clash.Earlier, tc.with, tc.inOther)
			}
		})
	}
}

func TestTakesOver(t *testing.T) {
	e := &Earlier{Manifest: bundle.Manifest{Name: "first", States: []bundle.State{{ID: 1, Version: 2}, {ID: 7}},
		Callbacks: []bundle.Callback{{Object: "vmlinux", Kind: "pre_patch", Function: "begin"}, {Object: "ext4", Kind: "post_unpatch", Function: "end"}}}}
	end := klpmod.Callback{Object: "ext4", Kind: elfdiff.PostUnpatch, Function: "end"}
	for _, tc := range []struct {
		name  string
		stats klpmod.Stats
		why   string
		notes int
	}{
		{"everything", klpmod.Stats{States: []klpmod.State{{ID: 7}, {ID: 1, Version: 2}}, Callbacks: []klpmod.Callback{end}}, "", 0},
		{"a higher version", klpmod.Stats{States: []klpmod.State{{ID: 7}, {ID: 1, Version: 3}}, Callbacks: []klpmod.Callback{end}}, "", 0},
		{"a lower version", klpmod.Stats{States: []klpmod.State{{ID: 7}, {ID: 1, Version: 1}}}, "in version 2, above 1", 0},
		{"a state less", klpmod.Stats{States: []klpmod.State{{ID: 1, Version: 2}}}, "have it no more", 0},
		{"a callback less", klpmod.Stats{States: []klpmod.State{{ID: 7}, {ID: 1, Version: 2}}}, "", 1},
	} {
		notes, err := e.takesOver(tc.stats)
		refused, ok := errors.AsType[*elfdiff.RefusedError](err)
		if ok != (tc.why != "") || ok && (len(refused.Refusals) != 1 || !strings.Contains(refused.Refusals[0].Why, tc.why)) || len(notes) != tc.notes {
			t.Errorf("%s: notes %q, error %v", tc.name, notes, err)
		}
	}
}

func TestBuildOn(t *testing.T) {
	k := kittest.Open(t, testKernel)
	first := options(t, k, "first", example(t, "proc-version.patch"))
	first.CVEs = []string{"CVE-2026-0001"}
	one, err := Build(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	earlier, err := ReadEarlier(one.File, first.Key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	second := options(t, k, "second", example(t, "proc-kmsg-oops.patch"))
	second.On = earlier
	two, err := Build(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"vmlinux:kmsg_open,0", "vmlinux:version_proc_show,0"}, functions(two.Manifest)); d != "" {
		t.Error(d)
	}
	if two.Manifest.On != bundle.DigestOf(one.File) || len(two.Manifest.Sources) != 2 || len(two.Manifest.CVEs) != 1 {
		t.Errorf("on %s, %d sources, CVEs %q", two.Manifest.On, len(two.Manifest.Sources), two.Manifest.CVEs)
	}
	second.Patches = []Input{example(t, "proc-version.patch")}
	if e, ok := errors.AsType[*ClashError](failure(Build(t.Context(), second))); !ok || e.With != "proc-version.patch" || !e.Earlier {
		t.Errorf("the same diff again: %+v, want a clash with the earlier bundle", e)
	}
}

func failure(_ *Output, err error) error { return err }
