package patches

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	"afloat/internal/kernel"
	"afloat/internal/kit"
	"afloat/internal/lab"
)

const testKernel = "debian:6.1.0-55-amd64"

// guestLimit is for the boot and all live patches, on a busy machine without KVM.
const guestLimit = 8 * time.Minute

// change is one file of testdata.
type change struct {
	name  string
	files map[string]string
	out   *build.Output
	err   error
}

func readChanges(t *testing.T) []*change {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d changes, %v", len(paths), err)
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
		if c.isBuilt() != (c.files["check"] != "") {
			t.Errorf("%s: a check is for what is built, and for nothing else", path)
		}
		changes = append(changes, c)
	}
	return changes
}

// testKit is the kernel's kit from the cache: making one is for `make kits`.
func testKit(t *testing.T) *kit.Kit {
	t.Helper()
	if testing.Short() {
		t.Skip("builds live patches and boots a guest")
	}
	ref, err := kit.ParseRef(testKernel)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := kit.DefaultDir()
	if err != nil {
		t.Skip("no cache folder: ", err)
	}
	k, err := (&kit.Cache{Dir: dir}).Open(ref)
	if err != nil {
		t.Skipf("no kit (%v); `afloat kernel fetch %s` gets one", err, testKernel)
	}
	return k
}

// TestNotBuilt builds every change of which no live patch may come.
func TestNotBuilt(t *testing.T) {
	k := testKit(t)
	changes := slices.DeleteFunc(readChanges(t), (*change).isBuilt)
	buildAll(t, k, changes)
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) { c.checkOutcome(t) })
	}
}

// TestBuilt builds every other change and takes its live patch through its life,
// all in one guest. It takes up to two minutes: `make patches`.
func TestBuilt(t *testing.T) {
	k := testKit(t)
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("loads a live patch of each kind in a guest with AFLOAT_PATCHES=1, as `make patches` does")
	}
	changes := slices.DeleteFunc(readChanges(t), func(c *change) bool { return !c.isBuilt() })
	buildAll(t, k, changes)
	h := boot(t, k)
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			c.checkOutcome(t)
			if c.out != nil && h != nil {
				c.live(t, k, h)
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
func (c *change) isBuilt() bool { return strings.HasPrefix(c.files["expect"], "built ") }

func (c *change) checkOutcome(t *testing.T) {
	if d := cmp.Diff(strings.TrimSpace(c.files["expect"]), c.outcome()); d != "" {
		t.Errorf("%s\n%v", d, c.err)
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
	guest := filepath.Join(t.TempDir(), "lab-guest")
	helper := exec.Command("go", "build", "-o", guest, "afloat/internal/lab/guest")
	helper.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := helper.CombinedOutput(); err != nil {
		t.Fatalf("build guest helper: %v: %s", err, out)
	}
	start := time.Now()
	h, end, err := lab.Trial{
		Kernel: lab.Kernel{Name: testKernel, Release: k.Release(), Vmlinux: k.Vmlinux(), ModulesDir: k.ModuleDir()},
		Guest:  guest, Modules: []string{"dummy", "8021q"}, MemoryMB: 512,
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

// life is a live patch's whole life in the guest, with the check before, while
// and after it is in effect. It prints the kernel's words; its exit code is the
// step that failed.
const life = `
state=/sys/kernel/livepatch/$1
later=$2
settle() {
	for i in $(seq 300); do
		[ "$(cat $state/transition 2>/dev/null || echo 0)" = 0 ] && return 0
		sleep 0.1
	done
	return 1
}
check() { dmesg -c >>/tmp/log; sh -e /tmp/check >/tmp/said 2>&1; }
fail() { cat /tmp/said; cat /tmp/log; dmesg; exit $1; }
dmesg -c >/dev/null
: >/tmp/log
if check; then fail 1; fi
insmod /tmp/patch.ko || fail 2
settle || fail 3
if [ -n "$later" ]; then insmod /tmp/$later.ko || fail 4; fi
check || fail 5
echo 0 >$state/enabled || fail 6
settle || fail 7
for i in $(seq 100); do
	[ -e $state ] || break
	sleep 0.1
done
rmmod $1 || fail 8
if check; then fail 9; fi
cat /tmp/log
dmesg
`

var steps = []string{1: "the check is true without the live patch", 2: "it does not load", 3: "its transition does not end",
	4: "the module it is for does not load after it", 5: "the check is not true with it", 6: "it cannot be disabled",
	7: "its transition back does not end", 8: "it does not unload", 9: "the check stays true after it was unloaded"}

// alarms are the kernel's words for what must not happen.
var alarms = regexp.MustCompile(`WARNING: |BUG: |Oops|general protection|INFO: task |unable to handle|` +
	`livepatch: .*(fail|cannot|unable|error)|Unknown symbol|nvalid relocation`)

// live loads the built patch in the guest, has its check run, and unloads it.
func (c *change) live(t *testing.T, k *kit.Kit, h *lab.Host) {
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	put := func(path string, content []byte) {
		t.Helper()
		if err := h.Put(ctx, path, 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	put("/tmp/patch.ko", c.out.Module)
	put("/tmp/check", []byte(c.files["check"]))
	later := strings.TrimSpace(c.files["later"])
	if later != "" {
		put("/tmp/"+later+".ko", module(t, k, later))
	}
	out, err := h.Exec(ctx, "sh", "-c", life, "life", c.out.Manifest.Module, later)
	if err != nil {
		t.Fatal(err)
	}
	if out.Code != 0 {
		t.Fatalf("step %d failed: %s\n%s", out.Code, steps[min(out.Code, len(steps)-1)], out.Output())
	}
	c.checkLog(t, out.Stdout)
}

// checkLog wants no alarm in the kernel's log, or the one that is announced.
func (c *change) checkLog(t *testing.T, log string) {
	announced := strings.TrimSpace(c.files["warns"])
	found := false
	for line := range strings.Lines(log) {
		if !alarms.MatchString(line) {
			continue
		}
		if announced == "" || found || !strings.Contains(line, announced) {
			t.Errorf("the kernel warned: %s", line)
		}
		found = true
	}
	if announced != "" && !found {
		t.Errorf("no warning of %s:\n%s", announced, log)
	}
}

// module is a module of the kernel, ready for insmod.
func module(t *testing.T, k *kit.Kit, name string) []byte {
	t.Helper()
	path, err := k.Module(name)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := kernel.Decompress(packed)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
