package patches

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/txtar"

	"afloat/internal/build"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
	"afloat/internal/lab"
	"afloat/internal/patch"
)

// usualKernel is the one that every change in testdata is for.
const usualKernel = "debian:6.1.0-55-amd64"

// testKernel is the kernel under test: AFLOAT_PATCHES_KERNEL names another than the
// usual one, as `make series` does.
func testKernel() string {
	if k := os.Getenv("AFLOAT_PATCHES_KERNEL"); k != "" {
		return k
	}
	return usualKernel
}

// guestLimit is for the boot and all live patches, on a busy machine without KVM.
const guestLimit = 8 * time.Minute

// change is one file of testdata.
type change struct {
	name  string
	files map[string]string
	out   *build.Output
	err   error
}

// readChanges reads the changes as they are for the kernel under test: where a
// series has other source, a file such as "change.patch 5.10" takes the place of the plain one.
func readChanges(t *testing.T) []*change {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d changes, %v", len(paths), err)
	}
	ref, err := kit.ParseRef(testKernel())
	if err != nil {
		t.Fatal(err)
	}
	var changes []*change
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := &change{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), files: map[string]string{}}
		for _, f := range archive.Files {
			c.files[f.Name] = string(f.Data)
		}
		for name, text := range maps.Clone(c.files) {
			if plain, ok := strings.CutSuffix(name, " "+ref.Series()); ok {
				c.files[plain] = text
			}
		}
		if c.isBuilt() != (c.files["check"] != "") {
			t.Errorf("%s: a check is for what is built, and for nothing else", path)
		}
		changes = append(changes, c)
	}
	return changes
}

// TestNotBuilt builds every change of which no live patch may come.
func TestNotBuilt(t *testing.T) {
	k := kittest.Open(t, testKernel())
	changes := slices.DeleteFunc(readChanges(t), (*change).isBuilt)
	buildAll(t, k, changes)
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) { c.checkOutcome(t) })
	}
}

// TestBuilt builds every other change and takes its live patch through its life,
// all in one guest. It takes up to two minutes: `make patches`.
func TestBuilt(t *testing.T) {
	k := kittest.Open(t, testKernel())
	wanted := os.Getenv("AFLOAT_PATCHES")
	if wanted == "" {
		t.Skip("loads a live patch of each kind in a guest with AFLOAT_PATCHES=1, as `make patches` does, or those of AFLOAT_PATCHES=NAME,NAME")
	}
	names := strings.Split(wanted, ",")
	changes := slices.DeleteFunc(readChanges(t), func(c *change) bool {
		return !c.isBuilt() || wanted != "1" && !slices.Contains(names, c.name)
	})
	buildAll(t, k, changes)
	h := boot(t, k)
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			c.checkOutcome(t)
			if c.out != nil && h != nil {
				c.live(t, h)
			}
		})
	}
}

func buildAll(t *testing.T, k *kit.Kit, changes []*change) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	start, work := time.Now(), t.TempDir()
	var group errgroup.Group
	group.SetLimit(2)
	for _, c := range changes {
		group.Go(func() error {
			input := build.Input{Name: c.name, Text: []byte(c.files["change.patch"])}
			c.out, c.err = build.Build(t.Context(), build.Options{Kit: k, Name: c.name, Patches: []build.Input{input},
				Key: key, WorkDir: work, Parallel: 1, Now: time.Now()})
			return nil // a failed build may be what is expected
		})
	}
	_ = group.Wait()
	t.Logf("%d builds took %.1f s", len(changes), time.Since(start).Seconds())
}

// isBuilt says whether a live patch is to come of the change.
func (c *change) isBuilt() bool { return strings.HasPrefix(c.files["expect"], "built") }

func (c *change) checkOutcome(t *testing.T) {
	if c.outcome() == "does not apply" && c.outcome() != strings.TrimSpace(c.files["expect"]) && testKernel() != usualKernel {
		t.Skip("not written for this kernel's source: ", c.err)
	}
	if d := cmp.Diff(strings.TrimSpace(c.files["expect"]), c.outcome()); d != "" {
		t.Errorf("%s\n%v", d, c.err)
	}
	if want, given := c.files["risks"]; given && c.out != nil {
		var got strings.Builder
		for _, r := range c.out.Manifest.Evidence.Risks {
			fmt.Fprintf(&got, "%s %s\n", r.Kind, r.Function)
		}
		if d := cmp.Diff(want, got.String()); d != "" {
			t.Errorf("risks: %s", d)
		}
	}
}

// outcome is what became of the change, in the words of the expect file.
func (c *change) outcome() string {
	if c.err == nil {
		words := []string{"built"}
		for _, f := range c.out.Manifest.Functions {
			words = append(words, f.Object+":"+f.Name)
		}
		return strings.Join(words, " ")
	}
	if errors.Is(c.err, build.ErrUnchanged) {
		return "unchanged"
	}
	if _, ok := errors.AsType[*patch.ConflictError](c.err); ok {
		return "does not apply"
	}
	if refused, ok := errors.AsType[*elfdiff.RefusedError](c.err); ok {
		return "refused " + classes(refused.Refusals)
	}
	word := strings.TrimPrefix(strings.TrimSpace(c.files["expect"]), "does not compile ")
	if e, ok := errors.AsType[*kbuild.CompileError](c.err); ok && e.Patched && strings.Contains(e.Output, word) {
		return "does not compile " + word
	}
	return "failed"
}

// classes lists the refusals' classes, each once, and names refusals that leave
// the author alone.
func classes(refusals []elfdiff.Refusal) string {
	var words []string
	seen := map[elfdiff.Class]bool{}
	for _, r := range refusals {
		if r.Why == "" || r.Hint == "" {
			words = append(words, fmt.Sprintf("(without a reason or hint: %+v)", r))
		}
		if !seen[r.Class] {
			seen[r.Class] = true
			words = append(words, string(r.Class))
		}
	}
	return strings.Join(words, " ")
}

// boot starts the guest in which all live patches are tried. It returns nil
// where this machine cannot run one.
func boot(t *testing.T, k *kit.Kit) *lab.Host {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Log("the live patches were not loaded: ", err)
		return nil
	}
	guest := guestHelper(t)
	start := time.Now()
	h, end, err := lab.Trial{
		Kernel: lab.KernelOf(k), Guest: guest, Modules: []string{"dummy", "8021q"}, MemoryMB: 512,
	}.Boot(t.Context())
	if end != nil {
		t.Cleanup(func() {
			if err := end(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("boot took %.1f s", time.Since(start).Seconds())
	return h
}

// guestHelper builds the lab's guest helper.
func guestHelper(t *testing.T) string { return program(t, "afloat/internal/lab/guest") }

// program builds a program for the guest and returns its file.
func program(t *testing.T, path string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, path)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", path, err, out)
	}
	return file
}

// live loads the built patch in the guest, has its check run, and unloads it.
func (c *change) live(t *testing.T, h *lab.Host) {
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	lived, err := lab.Life{
		Name: c.out.Manifest.Module, Patch: c.out.Module,
		Check: []byte("#!/bin/sh -e\n" + c.files["check"]), Contrast: true,
		Late: strings.Fields(c.files["later"]), Warns: strings.TrimSpace(c.files["warns"]),
	}.Run(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	if want := len(c.out.Manifest.Functions); lived.Redirected != want {
		t.Errorf("the kernel redirected %d of %d functions", lived.Redirected, want)
	}
}
