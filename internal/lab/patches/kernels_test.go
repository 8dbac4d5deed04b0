package patches

import (
	"crypto/ed25519"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"afloat/internal/build"
	"afloat/internal/kit/kittest"
	"afloat/internal/lab"
)

// TestKernels builds one diff for two series and two flavours, and boots each
// kernel with its live patch: once with the patched modules loaded before it,
// once after. It takes about two minutes: `make patches`.
func TestKernels(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("boots three kernels with AFLOAT_PATCHES=1, as `make patches` does")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("boots kernels: ", err)
	}
	archive, err := txtar.ParseFile("testdata/kernels/vmlinux-and-two-modules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	guest := guestHelper(t)
	for _, name := range []string{"debian:6.1.0-55-amd64", "debian:6.1.0-55-cloud-amd64", "debian:6.12.117+deb12-amd64"} {
		t.Run(name, func(t *testing.T) {
			c := &change{name: "one-diff", files: map[string]string{}}
			for _, f := range archive.Files {
				c.files[f.Name] = string(f.Data)
			}
			c.onKernel(t, name, guest)
		})
	}
}

func (c *change) onKernel(t *testing.T, kernel, guest string) {
	k := kittest.Open(t, kernel)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.out, c.err = build.Build(t.Context(), build.Options{Kit: k, Name: c.name, Key: key, WorkDir: t.TempDir(), Now: time.Now(),
		Patches: []build.Input{{Name: c.name, Text: []byte(c.files["change.patch"])}}})
	c.checkOutcome(t)
	if c.err != nil {
		return
	}
	report, err := lab.BootTest{
		Kernel: lab.KernelOf(k), Guest: guest,
		Patch: lab.Life{Name: c.out.Manifest.Module, Patch: c.out.Module,
			Check: []byte("#!/bin/sh -e\n" + c.files["check"])},
		Targets: []string{"dummy", "8021q"}, Functions: len(c.out.Manifest.Functions),
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Lives) != 2 || len(report.Unusable) != 0 {
		t.Errorf("%d lives, %v unusable; want one with the modules there and one with them late", len(report.Lives), report.Unusable)
	}
	if d := cmp.Diff([]string{"8021q", "dummy"}, slices.Sorted(slices.Values(report.Late))); d != "" {
		t.Errorf("modules loaded late: %s", d)
	}
	t.Logf("%s: built in %d ms, booted and tried in %.1f s; loading took %.2f s, then %.2f s", kernel, c.out.Manifest.Evidence.BuildMS,
		report.Took.Seconds(), report.Lives[0].Load.Seconds(), report.Lives[1].Load.Seconds())
}

// TestBootTestFails tries a live patch whose check is not true, and one that
// takes the kernel down. It takes half a minute: `make patches`.
func TestBootTestFails(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("boots a kernel twice with AFLOAT_PATCHES=1, as `make patches` does")
	}
	k := kittest.Open(t, "debian:6.1.0-55-cloud-amd64")
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("boots kernels: ", err)
	}
	out, guest := buildSigned(t, k, nil), guestHelper(t)
	for _, tc := range []struct{ check, why, console string }{
		{"echo wrong answer; exit 1", "the check script is not true with it", "wrong answer"},
		{"echo c >/proc/sysrq-trigger; sleep 60", "the kernel crashed", "Kernel panic - not syncing: sysrq triggered crash"},
	} {
		_, err := lab.BootTest{Kernel: lab.KernelOf(k), Guest: guest, Functions: 1,
			Patch: lab.Life{Name: out.Manifest.Module, Patch: out.Module, Check: []byte("#!/bin/sh\n" + tc.check + "\n")}}.Run(t.Context())
		failed, ok := errors.AsType[*lab.BootTestError](err)
		if !ok || failed.Why != tc.why || !strings.Contains(failed.Console, tc.console) {
			t.Errorf("%s: %v, want %s and %q", tc.check, err, tc.why, tc.console)
		}
	}
}
