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

// TestKernels builds one diff for two series and three flavours, and boots each
// kernel with its live patch: where it has modules, once with those loaded
// before it, once after. It takes a minute or two: `make patches`.
func TestKernels(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("boots five kernels with AFLOAT_PATCHES=1, as `make patches` does")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("boots kernels: ", err)
	}
	guest := guestHelper(t)
	realTime := []string{"debian:6.1.0-53-rt-amd64", "debian:6.12.107+deb12-rt-amd64"}
	for file, kernels := range map[string][]string{
		"vmlinux-and-two-modules": append([]string{"debian:6.1.0-55-amd64", "debian:6.1.0-55-cloud-amd64", "debian:6.12.117+deb12-amd64"}, realTime...),
		"real-time":               realTime,
	} {
		archive, err := txtar.ParseFile("testdata/kernels/" + file + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range kernels {
			t.Run(file+"/"+name, func(t *testing.T) {
				c := &change{name: "one-diff", files: map[string]string{}}
				for _, f := range archive.Files {
					c.files[f.Name] = string(f.Data)
				}
				c.onKernel(t, name, guest)
			})
		}
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
	targets := c.modules()
	report, err := lab.BootTest{
		Kernel: lab.KernelOf(k), Guest: guest,
		Patch: lab.Life{Name: c.out.Manifest.Module, Patch: c.out.Module,
			Check: []byte("#!/bin/sh -e\n" + c.files["check"])},
		Targets: targets, Functions: len(c.out.Manifest.Functions),
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if lives := 1 + min(1, len(targets)); len(report.Lives) != lives || len(report.Unusable) != 0 {
		t.Fatalf("%d lives, want %d: one with the modules there and one with them late; %v unusable", len(report.Lives), lives, report.Unusable)
	}
	if d := cmp.Diff(targets, slices.Sorted(slices.Values(report.Late))); d != "" {
		t.Errorf("modules loaded late: %s", d)
	}
	t.Logf("%s: built in %d ms, booted and tried in %.1f s", kernel, c.out.Manifest.Evidence.BuildMS, report.Took.Seconds())
	for _, life := range report.Lives {
		t.Logf("loading took %.2f s", life.Load.Seconds())
	}
}

// modules are those that the live patch changes, sorted.
func (c *change) modules() []string {
	var names []string
	for _, f := range c.out.Manifest.Functions {
		if f.Object != "vmlinux" && !slices.Contains(names, f.Object) {
			names = append(names, f.Object)
		}
	}
	slices.Sort(names)
	return names
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
