package patch

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// tree is a source tree in memory.
type tree map[string]string

func (t tree) read(path string) ([]byte, error) {
	if text, ok := t[path]; ok {
		return []byte(text), nil
	}
	return nil, fmt.Errorf("read %s: %w", path, fs.ErrNotExist)
}

func lines(names ...string) string { return strings.Join(names, "\n") + "\n" }

var source = tree{
	"Makefile":          "all:\n",
	"fs/proc/Makefile":  "obj-y\n",
	"fs/proc/cmdline.c": lines("a", "b", "c", "d", "e", "f", "g"),
}

const hunkB = "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"

func apply(t *testing.T, src tree, diffs ...string) (*Result, error) {
	t.Helper()
	var patches []*Patch
	for i, d := range diffs {
		p, err := Parse(fmt.Sprintf("p%d", i+1), []byte(d))
		if err != nil {
			t.Fatal(err)
		}
		patches = append(patches, p)
	}
	return Apply(src.read, patches...)
}

func TestApplyFormats(t *testing.T) {
	want := lines("a", "B", "c", "d", "e", "f", "g")
	for name, diff := range map[string]string{
		"git":          "From 1 Mon\nSubject: x\n\n---\n fs | 1\n\ndiff --git a/fs/proc/cmdline.c b/fs/proc/cmdline.c\nindex 1..2 100644\n--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n" + hunkB + "-- \n2.39\n",
		"plain -p1":    "diff -ruN a/fs/proc/cmdline.c b/fs/proc/cmdline.c\n--- a/fs/proc/cmdline.c\t2026-01-01 00:00:00.0 +0000\n+++ b/fs/proc/cmdline.c\t2026-01-02 00:00:00.0 +0000\n" + hunkB,
		"plain -p0":    "--- fs/proc/cmdline.c\n+++ fs/proc/cmdline.c\n" + hunkB,
		"plain .orig":  "--- fs/proc/cmdline.c.orig\n+++ fs/proc/cmdline.c\n" + hunkB,
		"two folders":  "--- old/linux-6.1/fs/proc/cmdline.c\n+++ new/linux-6.1/fs/proc/cmdline.c\n" + hunkB,
		"offset":       "--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n@@ -3,3 +3,3 @@\n a\n-b\n+B\n c\n",
		"crlf-free nl": "--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n@@ -2 +2 @@\n-b\n+B\n",
	} {
		t.Run(name, func(t *testing.T) {
			r, err := apply(t, source, diff)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(map[string][]byte{"fs/proc/cmdline.c": []byte(want)}, r.Files); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestApplyInOrder(t *testing.T) {
	head := "--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n"
	r, err := apply(t, source, head+"@@ -1,1 +1,3 @@\n+x\n+y\n a\n@@ -6,2 +8,1 @@\n f\n-g\n", head+"@@ -1,4 +1,4 @@\n x\n-y\n+Y\n a\n b\n")
	if err != nil {
		t.Fatal(err)
	}
	want := lines("x", "Y", "a", "b", "c", "d", "e", "f")
	if got := string(r.Files["fs/proc/cmdline.c"]); got != want {
		t.Error(cmp.Diff(want, got))
	}
	if len(r.Notes) != 0 {
		t.Errorf("notes %q, want none: no hunk moved", r.Notes)
	}
}

func TestApplyConflicts(t *testing.T) {
	head := "--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n"
	twice := tree{"fs/proc/cmdline.c": lines("x", "a", "b", "c", "a", "b", "c")}
	for _, tc := range []struct {
		name, diff string
		src        tree
		want       ConflictError
	}{
		{"not there", head + "@@ -1,2 +1,2 @@\n a\n-x\n+y\n", source,
			ConflictError{"p1", "fs/proc/cmdline.c", 1, "@@ -1,2 +1,2 @@", "the lines it changes are not in the file"}},
		{"second hunk", head + hunkB + "@@ -6,1 +6,1 @@\n-q\n+r\n", source,
			ConflictError{"p1", "fs/proc/cmdline.c", 2, "@@ -6,1 +6,1 @@", "the lines it changes are not in the file"}},
		{"applied already", head + "@@ -1,2 +1,2 @@\n-z\n+a\n b\n", source,
			ConflictError{"p1", "fs/proc/cmdline.c", 1, "@@ -1,2 +1,2 @@", "it is applied already, at line 1"}},
		{"two places", head + hunkB, twice,
			ConflictError{"p1", "fs/proc/cmdline.c", 1, "@@ -1,3 +1,3 @@", "the lines it changes are not where it says, but at lines 2 and 5"}},
		{"no such file", "--- a/fs/none.c\n+++ b/fs/none.c\n" + hunkB, source,
			ConflictError{Patch: "p1", File: "b/fs/none.c", Why: "the source tree has no such file"}},
		{"leaves the tree", "--- a/../../etc/passwd\n+++ b/../../etc/passwd\n" + hunkB, source,
			ConflictError{Patch: "p1", File: "b/../../etc/passwd", Why: `"b/../../etc/passwd" leaves the source tree`}},
		{"another Makefile", "--- a/fs/none/Makefile\n+++ b/fs/none/Makefile\n@@ -1 +1 @@\n-all:\n+none:\n", source,
			ConflictError{Patch: "p1", File: "b/fs/none/Makefile", Why: "the source tree has no such file"}},
		{"exists", "--- /dev/null\n+++ b/fs/proc/cmdline.c\n@@ -0,0 +1 @@\n+a\n", source,
			ConflictError{Patch: "p1", File: "fs/proc/cmdline.c", Why: "the file to be made is there already"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := apply(t, tc.src, tc.diff)
			got, ok := errors.AsType[*ConflictError](err)
			if !ok {
				t.Fatalf("error %v, want a conflict", err)
			}
			if d := cmp.Diff(&tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseRefusesWhatItCannotRead(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"prose":         "hello\n",
		"no header":     hunkB,
		"cut short":     "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n-b\n",
		"binary":        "diff --git a/x b/x\nindex 1..2 100644\nBinary files a/x and b/x differ\n",
		"hidden hunk":   "--- a/x\n+++ b/x\n" + hunkB + "\nnoise\n@@ -9,1 +9,1 @@\n-a\n+b\n",
		"counts differ": "--- a/x\n+++ b/x\n@@ -1,9 +1,9 @@\n a\n-b\n+B\n c\n",
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Parse("p", []byte(text)); err == nil {
				t.Errorf("parsed as %+v, want an error", p.changes)
			}
		})
	}
}

func TestSort(t *testing.T) {
	r := Result{Files: map[string][]byte{}, New: map[string]bool{"fs/new.c": true}}
	for _, p := range []string{"fs/ext4/mballoc.c", "include/linux/fs.h", "Documentation/x.rst", "tools/testing/a.c", "lib/string.c",
		"lib/zstd/a.c", "arch/x86/entry/entry_64.S", "arch/x86/entry/vdso/vma.c", "fs/Makefile", "fs/new.c", "tools/objtool/a.c", "tools/lib/bpf/relo_core.c"} {
		r.Files[p] = []byte("x")
	}
	r.Files["fs/gone.c"] = nil
	s := r.Sort()
	var refused []string
	for _, x := range s.Refusals {
		if x.Why == "" || x.Hint == "" {
			t.Errorf("%s: refused without reason or hint", x.Path)
		}
		refused = append(refused, x.Path)
	}
	got := [][]string{s.Compile, s.Headers, s.Ignored, refused}
	want := [][]string{
		{"fs/ext4/mballoc.c", "lib/zstd/a.c", "tools/lib/bpf/relo_core.c"}, {"include/linux/fs.h"}, {"Documentation/x.rst", "tools/testing/a.c"},
		{"arch/x86/entry/entry_64.S", "arch/x86/entry/vdso/vma.c", "fs/Makefile", "fs/gone.c", "fs/new.c", "lib/string.c", "tools/objtool/a.c"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A diff that replaces a random run of lines gives the new text, wherever the
// text has moved to, as long as its context tells the place.
func TestApplyProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(3, 40).Draw(t, "lines")
		old := make([]string, n)
		for i := range old {
			old[i] = fmt.Sprintf("line %d", i)
		}
		from := rapid.IntRange(0, n-1).Draw(t, "from")
		gone := rapid.IntRange(1, n-from).Draw(t, "gone")
		added := rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,8}`), 0, 5).Draw(t, "added")
		shift := rapid.IntRange(0, 30).Draw(t, "shift")

		var d strings.Builder
		fmt.Fprintf(&d, "--- a/f/x.c\n+++ b/f/x.c\n@@ -%d,%d +%d,%d @@\n", from+1, gone, from+1, len(added))
		for _, l := range old[from : from+gone] {
			fmt.Fprintf(&d, "-%s\n", l)
		}
		for _, l := range added {
			fmt.Fprintf(&d, "+%s\n", l)
		}
		pad := make([]string, shift)
		for i := range pad {
			pad[i] = fmt.Sprintf("pad %d", i)
		}
		text := append(pad, old...)
		want := append(append(append([]string{}, text[:shift+from]...), added...), text[shift+from+gone:]...)

		p, err := Parse("p", []byte(d.String()))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Apply(tree{"f/x.c": lines(text...)}.read, p)
		if len(added) == 0 && err != nil && gone == n {
			return // a diff that empties a file deletes it, and padding is other content
		}
		if err != nil {
			t.Fatal(err)
		}
		wantText := ""
		if len(want) > 0 {
			wantText = lines(want...)
		}
		if got := string(r.Files["f/x.c"]); got != wantText {
			t.Fatal(cmp.Diff(wantText, got))
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("--- a/fs/proc/cmdline.c\n+++ b/fs/proc/cmdline.c\n" + hunkB)
	f.Add("diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+a\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse("fuzz", []byte(text))
		if err != nil {
			return
		}
		r, err := Apply(source.read, p)
		if err != nil {
			return
		}
		for _, path := range r.Paths() {
			if strings.HasPrefix(path, "/") || strings.Contains("/"+path+"/", "/../") {
				t.Errorf("%q leaves the tree", path)
			}
		}
		r.Sort()
	})
}
