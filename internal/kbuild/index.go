package kbuild

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"afloat/internal/kernel"
	"afloat/internal/kit"
)

// Index knows every C object of one kernel's build.
type Index struct {
	units map[string][]Unit // by source; a source may make several objects
}

// indexFile is in the kit's cache; its name changes with its format.
const indexFile = "objects-4.json.gz"

// earlierIndexFile is of the same format. Its modules are by the name that the
// compiler is told: most kernels have no object for which that is another's.
const earlierIndexFile = "objects-3.json.gz"

// minUnits: a kernel has thousands of objects, so fewer mean that make stopped early.
const minUnits = 500

// Units returns how to make the objects of a source file, given by its path in
// the tree. It refuses, with a *RefusedError, what is not built in this
// configuration and what a live patch cannot replace.
func (x *Index) Units(source string) ([]Unit, error) {
	units := x.units[source]
	if len(units) == 0 {
		return nil, &RefusedError{Source: source, Why: "the kernel's configuration builds no object from it"}
	}
	for _, u := range units {
		if strings.Contains(u.Module, ":") {
			return nil, &RefusedError{Source: source, Why: fmt.Sprintf("its object is linked into several modules (%s)",
				strings.ReplaceAll(u.Module, ":", ", "))}
		}
	}
	return units, nil
}

// ForeignError says that the tree, configured as it is, would not make the
// modules that the kernel ships: they are of another configuration or source.
type ForeignError struct {
	Missing []string // modules, sorted
	Shipped int
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("the source, configured as the kit is, builds no %s, nor %d others of the %d modules that the kernel ships",
		e.Missing[0], len(e.Missing)-1, e.Shipped)
}

// checkModules returns a *ForeignError where more than one in a hundred of the
// shipped modules has no object. The rest of them may be all assembly, or not from the tree.
func (x *Index) checkModules(k *kit.Kit) error {
	have := map[string]bool{}
	for _, units := range x.units {
		for _, u := range units {
			for name := range strings.SplitSeq(u.Module, ":") {
				have[name] = true
			}
		}
	}
	var missing []string
	for name := range k.Modules {
		if !have[name] {
			missing = append(missing, name)
		}
	}
	if len(missing)*100 <= len(k.Modules) {
		return nil
	}
	slices.Sort(missing)
	return &ForeignError{Missing: missing, Shipped: len(k.Modules)}
}

// Sources lists every source file that the kernel is built from, sorted.
func (x *Index) Sources() []string {
	out := make([]string, 0, len(x.units))
	for s := range x.units {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

func newIndex(units []Unit) *Index {
	x := &Index{units: make(map[string][]Unit, len(units))}
	seen := make(map[string]bool, len(units))
	for _, u := range units {
		if !seen[u.Object] {
			seen[u.Object] = true
			source := path.Clean(u.Source) // amdgpu names some as amdgpu/../display/x.c
			x.units[source] = append(x.units[source], u)
		}
	}
	return x
}

// LoadIndex reads the kit's index, or asks make for it first, which takes
// half a minute and happens once per kit. progress, if set, is told when it does.
// Errors are a *ForeignError where the kit does not hang together.
func LoadIndex(ctx context.Context, k *kit.Kit, progress func(string)) (*Index, error) {
	file := filepath.Join(k.Cache(), indexFile)
	if units, err := readIndex(file); err == nil {
		return newIndex(units), nil
	}
	if units, err := readIndex(filepath.Join(k.Cache(), earlierIndexFile)); err == nil && allShipped(units, k) {
		return newIndex(units), nil
	}
	if progress != nil {
		progress("listing the kernel's objects (once per kernel)")
	}
	units, err := askMake(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("list objects of %s: %w", k.Ref, err)
	}
	x := newIndex(units)
	if err := x.checkModules(k); err != nil {
		return nil, fmt.Errorf("list objects of %s: %w", k.Ref, err)
	}
	if err := writeIndex(file, units); err != nil {
		return nil, fmt.Errorf("list objects of %s: %w", k.Ref, err)
	}
	return x, nil
}

// allShipped says that the kernel ships each module that an object is said to be of.
func allShipped(units []Unit, k *kit.Kit) bool {
	return !slices.ContainsFunc(units, func(u Unit) bool {
		return u.Module != "" && slices.ContainsFunc(strings.Split(u.Module, ":"), func(name string) bool {
			_, shipped := k.Modules[name]
			return !shipped
		})
	})
}

// askMake lets make print what it would run for the whole kernel. It ends
// with an error, because what it would link was never made; what counts is
// whether the objects are all there.
func askMake(ctx context.Context, k *kit.Kit) ([]Unit, error) {
	out, err := os.CreateTemp(k.Cache(), ".make-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	// Without --output-sync, lines longer than make's buffer mix when several makes
	// write at once, and their objects are lost.
	args := append(kit.MakeArgs(k.Dir, k.Compiler, k.ID), "-n", "-k", "--output-sync=target", "-j"+strconv.Itoa(runtime.NumCPU()), "vmlinux", "modules")
	cmd := exec.CommandContext(ctx, "make", args...)
	cmd.Dir, cmd.Env = k.Source(), kit.Environ(os.Environ())
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	runErr := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](runErr); (runErr != nil && !ok) || ctx.Err() != nil {
		return nil, errors.Join(runErr, context.Cause(ctx))
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	units, err := parseUnits(out, k.Compiler)
	if err == nil && len(units) < minUnits {
		err = fmt.Errorf("make names only %d objects: %w", len(units), runErr)
	}
	return units, err
}

func parseUnits(r io.Reader, compiler string) ([]Unit, error) {
	var units []Unit
	var late []string
	modules := map[string][]string{}
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 1<<16), 16<<20)
	for scan.Scan() {
		if u, ok := parseUnit(scan.Text(), compiler); ok {
			units = append(units, u)
			continue
		}
		module, objects := linkedInto(scan.Text())
		for _, o := range objects {
			modules[o] = append(modules[o], module)
		}
		if late == nil {
			late = lateObjtool(scan.Text())
		}
	}
	nameModules(units, modules)
	if late != nil {
		addLateObjtool(units, late)
	}
	return units, scan.Err()
}

// linkedInto reads the line by which make writes the list of a module's objects,
// DIR/NAME.mod; nothing from every other line.
func linkedInto(line string) (module string, objects []string) {
	if !strings.Contains(line, ".mod") {
		return "", nil
	}
	for _, c := range splitShell(line) {
		at, n := slices.Index(c, "|"), len(c)
		if n < 4 || c[0] != "printf" || at < 0 || c[n-2] != ">" || path.Ext(c[n-1]) != ".mod" {
			continue
		}
		for _, name := range c[2:at] {
			objects = append(objects, path.Join(path.Dir(c[n-1]), name))
		}
		return kernel.ModuleName(strings.TrimSuffix(c[n-1], ".mod")), objects
	}
	return "", nil
}

// nameModules corrects the modules of objects by the lists. The name that the
// compiler is told is another where the rule is not the module's own: xe compiles
// files of i915 by one that takes each for a module.
func nameModules(units []Unit, modules map[string][]string) {
	for i, u := range units {
		if names := modules[path.Clean(u.Object)]; u.Module != "" && len(names) > 0 {
			slices.Sort(names)
			units[i].Module = strings.Join(slices.Compact(names), ":")
		}
	}
}

// lateObjtool finds the command that kernels with IBT run on each linked
// module, instead of on each object (delay-objtool in scripts/Makefile.lib).
func lateObjtool(line string) []string {
	at := strings.Index(line, "tools/objtool/objtool ")
	if at < 0 || !strings.Contains(line[at:], " --link ") || !strings.Contains(line[at:], " --module ") {
		return nil
	}
	for _, c := range splitShell(line) {
		if n := len(c); n > 2 && path.Base(c[0]) == "objtool" && slices.Contains(c, "--link") && strings.HasSuffix(c[n-1], ".o") {
			return c[:n-1]
		}
	}
	return nil
}

// addLateObjtool lets objtool run on each object after all: a live patch needs
// what it adds (unwind tables, return and call sites), and takes it from single objects.
func addLateObjtool(units []Unit, module []string) {
	vmlinux := slices.DeleteFunc(slices.Clone(module), func(arg string) bool { return arg == "--module" })
	for i := range units {
		switch {
		case units[i].Objtool != nil:
		case units[i].Module != "":
			units[i].Objtool = module
		default:
			units[i].Objtool = vmlinux
		}
	}
}

// stored is the index on disk: thousands of objects share few lists of flags.
type stored struct {
	Flags [][]string   `json:"flags"`
	Units []storedUnit `json:"units"`
}

type storedUnit struct {
	Object  string   `json:"o"`
	Source  string   `json:"c"`
	Module  string   `json:"m,omitempty"`
	Common  int      `json:"f"`           // index into Flags
	Own     []string `json:"d,omitempty"` // flags that name the object itself
	Objtool int      `json:"t"`           // index into Flags, or -1
}

func writeIndex(file string, units []Unit) error {
	var s stored
	at := map[string]int{}
	intern := func(flags []string) int {
		key := strings.Join(flags, "\x00")
		if n, ok := at[key]; ok {
			return n
		}
		at[key] = len(s.Flags)
		s.Flags = append(s.Flags, flags)
		return at[key]
	}
	for _, u := range units {
		su := storedUnit{Object: u.Object, Source: u.Source, Module: u.Module, Objtool: -1}
		n := slices.IndexFunc(u.Compile, ownFlag)
		if n < 0 {
			n = len(u.Compile)
		}
		su.Common, su.Own = intern(u.Compile[:n]), u.Compile[n:]
		if u.Objtool != nil {
			su.Objtool = intern(u.Objtool)
		}
		s.Units = append(s.Units, su)
	}
	return kit.StoreGzip(file, s)
}

// ownFlag finds where the flags begin that differ from object to object.
func ownFlag(flag string) bool {
	return strings.HasPrefix(flag, "-DKBUILD_") || strings.HasPrefix(flag, "-D__KBUILD_")
}

func readIndex(file string) ([]Unit, error) {
	var s stored
	if err := kit.LoadGzip(file, &s); err != nil {
		return nil, err
	}
	units := make([]Unit, len(s.Units))
	for i, su := range s.Units {
		if su.Common < 0 || su.Common >= len(s.Flags) || su.Objtool >= len(s.Flags) {
			return nil, errors.New("index names flags that it does not hold")
		}
		units[i] = Unit{Object: su.Object, Source: su.Source, Module: su.Module, Compile: slices.Concat(s.Flags[su.Common], su.Own)}
		if su.Objtool >= 0 {
			units[i].Objtool = s.Flags[su.Objtool]
		}
	}
	return units, nil
}
