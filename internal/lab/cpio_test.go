package lab

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArchiveIsWhatCpioUnpacks(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("etc/deep/file", 0o640, []byte("content"))
	a.file("/abs", 0o755, nil)
	a.symlink("bin/sh", "busybox")
	a.dir("etc")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "-id", "--quiet")
	cmd.Dir, cmd.Stdin = dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "etc/deep/file")); err != nil || string(got) != "content" {
		t.Errorf("file = %q, %v", got, err)
	}
	if st, err := os.Stat(filepath.Join(dir, "abs")); err != nil || st.Mode().Perm() != 0o755 || st.Size() != 0 {
		t.Errorf("empty file: %v, %v", st, err)
	}
	if got, err := os.Readlink(filepath.Join(dir, "bin/sh")); err != nil || got != "busybox" {
		t.Errorf("link = %q, %v", got, err)
	}
}

func TestArchiveAddsEachFolderOnceAndFirst(t *testing.T) {
	var b bytes.Buffer
	a := newArchive(&b)
	a.file("x/y/1", 0o644, nil)
	a.file("x/y/2", 0o644, nil)
	a.dir("x")
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for part := range strings.SplitSeq(b.String(), "070701") {
		if len(part) > 104 {
			names = append(names, strings.TrimRight(part[104:], "\x00"))
		}
	}
	if diff := cmp.Diff([]string{"x", "x/y", "x/y/1", "x/y/2", "TRAILER!!!"}, names); diff != "" {
		t.Error(diff)
	}
}

type brokenWriter struct{ after int }

var errBroken = errors.New("disk full")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestArchiveKeepsTheFirstError(t *testing.T) {
	a := newArchive(&brokenWriter{after: 300})
	a.file("a", 0o644, make([]byte, 500))
	a.file("b", 0o644, nil)
	if err := a.close(); !errors.Is(err, errBroken) {
		t.Errorf("close = %v, want %v", err, errBroken)
	}
}
