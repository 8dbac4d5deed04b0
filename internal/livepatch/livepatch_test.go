package livepatch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

// fixture unpacks a tree and opens it as a kernel whose module calls are answered by calls.
func fixture(t *testing.T, archive string, calls syscalls) (*Kernel, string) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		name := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k, err := OpenAt(filepath.Join(dir, "sys"), filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	k.syscalls = calls
	t.Cleanup(func() { k.Close() })
	return k, dir
}

const tree = `
-- sys/kernel/livepatch/afloat_a/enabled --
1
-- sys/kernel/livepatch/afloat_a/transition --
1
-- sys/kernel/livepatch/afloat_a/force --
-- sys/kernel/livepatch/afloat_a/vmlinux/patched --
1
-- sys/kernel/livepatch/afloat_a/ext4/ext4_mb_init,1/x --
-- sys/kernel/livepatch/kpatch_b/enabled --
0
-- sys/kernel/livepatch/kpatch_b/transition --
0
-- proc/modules --
afloat_a 16384 1 - Live 0x0000000000000000 (OE)
ext4 983040 1 afloat_a, Live 0x0000000000000000
-- proc/1/task/1/patch_state --
1
-- proc/1/task/1/comm --
init
-- proc/70/task/70/patch_state --
-1
-- proc/70/task/71/patch_state --
0
-- proc/70/task/71/comm --
kworker/u2:1
-- proc/80/task/80/comm --
gone
-- proc/self/x --
`

func TestReadsFixtureTree(t *testing.T) {
	k, _ := fixture(t, tree, syscalls{})
	patches, err := k.Patches()
	if err != nil {
		t.Fatal(err)
	}
	want := []Patch{
		{Name: "afloat_a", Enabled: true, Transition: true, Objects: []string{"ext4", "vmlinux"}},
		{Name: "kpatch_b"},
	}
	if diff := cmp.Diff(want, patches); diff != "" {
		t.Errorf("patches (-want +got):\n%s", diff)
	}
	modules, err := k.Modules()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"afloat_a", "ext4"}, modules); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	tasks, err := k.Stalled("afloat_a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Task{{PID: 71, Comm: "kworker/u2:1"}}, tasks); diff != "" {
		t.Errorf("stalled (-want +got):\n%s", diff)
	}
}

func TestUnknownTextBlocks(t *testing.T) {
	for name, archive := range map[string]string{
		"enabled 2":           "-- sys/kernel/livepatch/a/enabled --\n2\n-- sys/kernel/livepatch/a/transition --\n0\n-- proc/x --\n",
		"empty transition":    "-- sys/kernel/livepatch/a/enabled --\n1\n-- sys/kernel/livepatch/a/transition --\n-- proc/x --\n",
		"trailing text":       "-- sys/kernel/livepatch/a/enabled --\n1 \n-- sys/kernel/livepatch/a/transition --\n0\n-- proc/x --\n",
		"no live patching":    "-- sys/kernel/x --\n-- proc/x --\n",
		"livepatch not a dir": "-- sys/kernel/livepatch --\n-- proc/x --\n",
	} {
		t.Run(name, func(t *testing.T) {
			k, _ := fixture(t, archive, syscalls{})
			if got, err := k.Patches(); err == nil {
				t.Errorf("no error, got %+v", got)
			}
		})
	}
	k, _ := fixture(t, "-- sys/x --\n-- proc/x --\n", syscalls{})
	if _, err := k.Patches(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error is %v, want ErrUnsupported", err)
	}
	if _, err := k.Modules(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("error is %v, want ErrUnsupported", err)
	}
}

func TestPatchNameStaysInside(t *testing.T) {
	k, _ := fixture(t, tree, syscalls{})
	for _, name := range []string{"", ".", "..", "../livepatch/afloat_a", "a/b", "/"} {
		if _, err := k.Patch(name); err == nil {
			t.Errorf("Patch(%q) was accepted", name)
		}
	}
}

func TestSetEnabledWrites(t *testing.T) {
	k, dir := fixture(t, tree, syscalls{})
	if err := k.SetEnabled("afloat_a", false); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "sys/kernel/livepatch/afloat_a/enabled"))
	if err != nil || string(data) != "0\n" { // one byte is written over the first
		t.Errorf("enabled is %q, %v", data, err)
	}
	if err := k.SetEnabled("nothing", false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v, want not exist", err)
	}
}

func TestLoadAndUnloadErrorsAreTyped(t *testing.T) {
	for _, tc := range []struct {
		errno unix.Errno
		temp  bool
		text  string
	}{
		{unix.EBUSY, true, "load m: device or resource busy: another live patch is in transition"},
		{unix.ENOEXEC, false, "load m: exec format error: invalid module format, built for another kernel"},
		{unix.EKEYREJECTED, false, "load m: key was rejected by service: this kernel takes signed modules only, and trusts no key that signed this one"},
		{unix.EIO, false, "load m: input/output error"},
	} {
		var got []byte
		k, _ := fixture(t, tree, syscalls{load: func(fd int) error {
			got = make([]byte, 10)
			n, err := unix.Pread(fd, got, 0)
			if err != nil {
				t.Fatal(err)
			}
			got = got[:n]
			return tc.errno
		}})
		err := k.Load("m", []byte("payload"))
		e, ok := errors.AsType[*KernelError](err)
		if !ok || e.Temporary() != tc.temp || err.Error() != tc.text || !errors.Is(err, tc.errno) {
			t.Errorf("%v: got %v", tc.errno, err)
		}
		if string(got) != "payload" {
			t.Errorf("the kernel was given %q", got)
		}
	}
	k, _ := fixture(t, tree, syscalls{unload: func(string) error { return unix.EAGAIN }})
	if e, ok := errors.AsType[*KernelError](k.Unload("m")); !ok || !e.Temporary() {
		t.Errorf("unload: got %v", e)
	}
}

func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, dir := fixture(t, tree, syscalls{})
		start := time.Now()
		go func() {
			time.Sleep(20 * time.Second)
			if err := os.WriteFile(filepath.Join(dir, "sys/kernel/livepatch/afloat_a/transition"), []byte("0\n"), 0o644); err != nil {
				t.Error(err)
			}
		}()
		p, err := k.Settle(t.Context(), "afloat_a")
		if err != nil || !p.Enabled || p.Transition {
			t.Errorf("settled as %+v, %v", p, err)
		}
		if took := time.Since(start); took < 20*time.Second || took > 20*time.Second+pollSlow {
			t.Errorf("settled after %v", took)
		}
	})
}

func TestSettleEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _ := fixture(t, tree, syscalls{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		p, err := k.Settle(ctx, "afloat_a")
		if !errors.Is(err, context.DeadlineExceeded) || !p.Transition {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}

func FuzzParseModules(f *testing.F) {
	f.Add([]byte("ext4 983040 1 - Live 0x0\n"))
	f.Add([]byte("x 1 2 a,b, Unloading 0x0 (OE)\nshort\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := parseModules(data)
		if err != nil && names != nil {
			t.Error("names and an error")
		}
		for _, n := range names {
			if n == "" {
				t.Error("empty name")
			}
		}
	})
}

func FuzzParseFlag(f *testing.F) {
	f.Add([]byte("1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		on, err := parseFlag(data)
		if err == nil && string(data) != map[bool]string{true: "1\n", false: "0\n"}[on] {
			t.Errorf("%q was taken for %v", data, on)
		}
	})
}
