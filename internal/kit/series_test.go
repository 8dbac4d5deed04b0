package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeTree writes files below dir.
func writeTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// readTree returns the files below dir; executable ones are marked.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if st, _ := d.Info(); st.Mode()&0o111 != 0 {
			rel += "*"
		}
		files[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// withSeries is a maker with a tree, and the debian.tar of the files given.
func withSeries(t *testing.T, tree, debian map[string]string) *maker {
	t.Helper()
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("patch is not installed: ", err)
	}
	dir := t.TempDir()
	m := &maker{cache: &Cache{Dir: dir}, kit: &Kit{Dir: filepath.Join(dir, "kit")}, series: filepath.Join(dir, "linux_1.debian.tar.xz")}
	writeTree(t, m.kit.Source(), tree)
	debian["debian/changelog"] = "any"
	writeTree(t, filepath.Join(dir, "package"), debian)
	if _, err := run(t.Context(), filepath.Join(dir, "package"), "tar", "--create", "--xz", "--file="+m.series, "debian"); err != nil {
		t.Fatal(err)
	}
	return m
}

const (
	patchSched = `Subject: [PATCH 1/2] sched: wait

--- a/kernel/sched.c
+++ b/kernel/sched.c
@@ -1,3 +1,4 @@
 one
 two
+two and a half
 three
`
	patchFiles = `diff --git a/old.c b/new.c
similarity index 50%
rename from old.c
rename to new.c
--- a/old.c
+++ b/new.c
@@ -1,2 +1,2 @@
 kept
-before
+after
diff --git a/gone.c b/gone.c
deleted file mode 100644
--- a/gone.c
+++ /dev/null
@@ -1 +0,0 @@
-gone
diff --git a/scripts/tool.sh b/scripts/tool.sh
new file mode 100755
--- /dev/null
+++ b/scripts/tool.sh
@@ -0,0 +1 @@
+#!/bin/sh
--- /dev/null
+++ b/localversion-rt
@@ -0,0 +1 @@
+-rt64
`
)

func TestApplySeries(t *testing.T) {
	tree := map[string]string{"kernel/sched.c": "zero\none\ntwo\nthree\n", "old.c": "kept\nbefore\n", "gone.c": "gone\n", "other.c": "as it was\n"}
	m := withSeries(t, tree, map[string]string{
		"debian/patches-rt/series":          "# comment\n\nsched.patch\nsub/files.patch -p1 # why\n",
		"debian/patches-rt/sched.patch":     patchSched,
		"debian/patches-rt/sub/files.patch": patchFiles,
		"debian/patches-rt/unused.patch":    "not in the series\n",
	})
	if err := m.applySeries(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"kernel/sched.c": "zero\none\ntwo\ntwo and a half\nthree\n", "new.c": "kept\nafter\n",
		"scripts/tool.sh*": "#!/bin/sh\n", "localversion-rt": "-rt64\n", "other.c": "as it was\n"}
	if d := cmp.Diff(want, readTree(t, m.kit.Source())); d != "" {
		t.Error(d)
	}
	if _, err := os.Stat(m.path("series")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the series stays in the kit: %v", err)
	}
}

// Where a series does not fit, its patch, file and hunk are named.
func TestSeriesThatDoesNotApply(t *testing.T) {
	hunk := func(file, old string) string {
		return fmt.Sprintf("--- a/%s\n+++ b/%s\n@@ -1 +1 @@\n-%s\n+x\n", file, file, old)
	}
	long := "--- a/long.c\n+++ b/long.c\n@@ -1,2 +1,2 @@\n-1\n+first\n 2\n@@ -8,2 +8,2 @@\n 8\n-nine\n+9\n"
	for name, tc := range map[string]struct {
		patch, file string
		hunk        int
		says        string
	}{
		"other lines":   {hunk("a.c", "b"), "a.c", 1, "FAILED"},
		"second hunk":   {long, "long.c", 2, "FAILED"},
		"second file":   {hunk("a.c", "a") + hunk("b.c", "a") + hunk("c.c", "c"), "b.c", 1, "FAILED"},
		"no such file":  {hunk("a.c", "a") + hunk("dir/d.c", "d"), "dir/d.c", 0, "can't find file"},
		"applied":       {"--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-before\n+a\n", "a.c", 0, "previously applied"},
		"there already": {"--- /dev/null\n+++ b/c.c\n@@ -0,0 +1 @@\n+new\n", "c.c", 0, "already exists"},
		"cut short":     {"--- a/a.c\n+++ b/a.c\n@@ -1,5 +1,5 @@\n-a\n", "a.c", 0, "unexpected end of file"},
		"leaves":        {hunk("../../a.c", "a"), "../../a.c", 0, "can't find file"},
		"garbage":       {"prose\n", "", 0, "garbage"},
	} {
		t.Run(name, func(t *testing.T) {
			tree := map[string]string{"a.c": "a\n", "b.c": "b\n", "c.c": "c\n", "long.c": "1\n2\n3\n4\n5\n6\n7\n8\n9\n"}
			m := withSeries(t, tree, map[string]string{"debian/patches-rt/series": "0001-x.patch\n", "debian/patches-rt/0001-x.patch": tc.patch})
			writeTree(t, m.cache.Dir, map[string]string{"a.c": "a\n"}) // two folders above the tree
			err := m.applySeries(t.Context())
			e, ok := errors.AsType[*SeriesError](err)
			if !ok || e.Patch != "0001-x.patch" || e.File != tc.file || e.Hunk != tc.hunk || !strings.Contains(e.Output, tc.says) {
				t.Errorf("%+v, want hunk %d of %q and %q", err, tc.hunk, tc.file, tc.says)
			}
			if got := readTree(t, m.cache.Dir)["a.c"]; got != "a\n" {
				t.Errorf("outside of the tree is %q", got)
			}
		})
	}
	// A package without the series is none of a real-time kernel.
	m := withSeries(t, nil, map[string]string{"debian/patches/series": "x.patch\n"})
	if err := m.applySeries(t.Context()); err == nil || !strings.Contains(err.Error(), "linux_1.debian.tar.xz has no debian/patches-rt/series") {
		t.Errorf("no series: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.applySeries(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestParseSeries(t *testing.T) {
	got, err := parseSeries([]byte("\n# all\n0001.patch\n  dir/0002.patch -p1 # moved\n"))
	if d := cmp.Diff([]string{"0001.patch", "dir/0002.patch"}, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for text, want := range map[string]string{
		"":                     "names no patch",
		"a.patch\nb.patch -p0": "line 2",
		"a.patch b.patch":      "line 1",
		"a.patch -p1 -R":       "line 1",
		"../a.patch":           "leaves the folder",
		"/a.patch":             "leaves the folder",
	} {
		if names, err := parseSeries([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, names, err, want)
		}
	}
}

func FuzzParseSeries(f *testing.F) {
	f.Add("0001-one.patch\n# a comment\n0002-two.patch -p1\n")
	f.Fuzz(func(t *testing.T, text string) {
		names, err := parseSeries([]byte(text))
		for _, name := range names {
			if err != nil || !filepath.IsLocal(name) {
				t.Errorf("%q, %v", name, err)
			}
		}
	})
}
