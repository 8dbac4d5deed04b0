// Package klpmod links Diffs into one livepatch kernel module, without
// compiler, linker or kbuild: it lays out the sections, writes the klp_patch
// tables as data, and turns references into plain relocations against exported
// symbols or into klp relocations (.klp.rela.*) that the kernel resolves by
// name and position when the patched object is present.
//
// The kernel's side is Documentation/livepatch/module-elf-format.rst and
// kernel/livepatch/core.c.
//
// The distance between two symbols of vmlinux is fixed when vmlinux is linked;
// address space randomisation moves the image as a whole. So where the build id
// is known, code and data of the live patch reach symbols that are not exported
// through an exported one, klp_enable_patch, and an addend. The module's first
// act is to compare the build id: on another kernel it refuses to load, before
// any of its code has run. Entries of special sections, which the kernel follows
// before that, keep to names, as do per-CPU symbols, whose values are no addresses.
//
// Kernels before 6.3 cannot load a patched module a second time; see forget.go
// for how the live patch makes it possible.
//
// What must not be linked is refused: the error is
// then an *elfdiff.RefusedError.
package klpmod

import (
	"fmt"
	"regexp"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/proof"
)

// Spec says what to link.
type Spec struct {
	// Name of the module, and of its directory in sysfs: at most 55 letters, digits and underscores.
	Name    string
	Targets []Target
	Kernel  Kernel
}

// Target is one patched kernel object: vmlinux or a module.
type Target struct {
	Object string // "vmlinux", or the module's name as /proc/modules shows it
	Parts  []Part
}

// Part is one object file of a Target.
type Part struct {
	Source string // path of the object or source file, for messages
	Diff   *elfdiff.Diff
	// Places from package proof tell same-named symbols apart; without them
	// only names that are unique in the Target can be referred to.
	Places proof.Places
}

// Kernel is what the link needs to know of the kernel that will load the module.
type Kernel struct {
	Sizes    kernel.Sizes
	Kallsyms *kernel.Kallsyms
	Symvers  kernel.Symvers
	// Sealed are the functions of vmlinux that may not be called by a pointer, see kernel.ReadSealed.
	Sealed []uint64
	// Modules are the shipped modules that Targets name.
	Modules map[string]*kernel.Module
	// Vermagic and Retpoline as shipped modules carry them.
	Vermagic  string
	Retpoline bool
	// BuildID and the link address of its first byte in the running kernel, from
	// kernel.ReadBuildIDNote. With them the module checks before it enables itself
	// that it runs on exactly this build, and can refer to vmlinux symbols by their
	// distance instead of by name: the kernel walks its whole symbol table for each
	// name. Without them every reference is by name.
	BuildID     []byte
	BuildIDAddr uint64
}

// Function is one entry of the klp tables.
type Function struct {
	Object string
	Name   string
	Sympos int
}

// Stats describes a linked module.
type Stats struct {
	Functions []Function // in table order
	Callbacks []Callback // of the patch's author, in the order of objects and files
	States    []State
	// KlpSymbols is the number of symbols that the kernel looks up at load: load time grows with it.
	KlpSymbols int
	KlpRelocs  int
	// Distances counts the references to vmlinux symbols that need no look-up.
	Distances int
	Imports   []string // exported symbols used, with versions
	// Entries counts the entries kept, by special section.
	Entries map[string]int
	// Notes are facts that a reviewer should know, as sentences; those of the Diffs are not repeated.
	Notes []string
}

const vmlinux = "vmlinux"

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_]{1,55}$`)

// Link returns the module's bytes, which depend on nothing but the Spec.
func Link(spec Spec) ([]byte, Stats, error) {
	if err := spec.validate(); err != nil {
		return nil, Stats{}, fmt.Errorf("link live patch: %w", err)
	}
	l := newLinker(spec)
	l.gather()
	l.findAnchor()
	l.resolveAll()
	l.dropForeignKeys()
	l.generate()
	if len(l.refusals) > 0 {
		return nil, Stats{}, fmt.Errorf("link live patch: %w", &elfdiff.RefusedError{Refusals: l.refusals})
	}
	if err := l.layOut(); err != nil {
		return nil, Stats{}, fmt.Errorf("link live patch: %w", err)
	}
	return l.encode(), l.stats, nil
}

func (s Spec) validate() error {
	switch {
	case !namePattern.MatchString(s.Name):
		return fmt.Errorf("name %q: want 1 to 55 letters, digits and underscores", s.Name)
	case s.Kernel.Vermagic == "":
		return fmt.Errorf("the kernel's vermagic is not known")
	case s.Kernel.Kallsyms == nil:
		return fmt.Errorf("the kernel's symbols are not known")
	}
	functions, seen := 0, map[string]bool{}
	for _, t := range s.Targets {
		switch {
		case seen[t.Object]:
			return fmt.Errorf("object %s is listed twice", t.Object)
		case t.Object != vmlinux && !namePattern.MatchString(t.Object):
			return fmt.Errorf("object name %q: want letters, digits and underscores", t.Object)
		case t.Object != vmlinux && s.Kernel.Modules[t.Object] == nil:
			return fmt.Errorf("the shipped module %s is not known", t.Object)
		}
		seen[t.Object] = true
		for _, p := range t.Parts {
			if len(p.Diff.Refusals) > 0 {
				return &elfdiff.RefusedError{Refusals: p.Diff.Refusals}
			}
			functions += len(p.Diff.Changed) + len(p.Diff.Callbacks)
		}
	}
	if functions == 0 {
		return fmt.Errorf("no function is replaced, and no callback called")
	}
	return s.Kernel.layouts()
}

// layouts checks that the kernel's types have the members that the tables fill in.
func (k Kernel) layouts() error {
	for _, need := range []struct {
		name    string
		layout  kernel.Layout
		members []string
	}{
		{"module", k.Sizes.Module, []string{"name", "init", "exit"}},
		{"klp_patch", k.Sizes.KlpPatch, []string{"mod", "objs", "replace"}},
		{"klp_object", k.Sizes.KlpObject, []string{"name", "funcs"}},
		{"klp_func", k.Sizes.KlpFunc, []string{"old_name", "new_func", "old_sympos"}},
	} {
		for _, m := range need.members {
			at, ok := need.layout.Offsets[m]
			if !ok || at < 0 || at+8 > need.layout.Size && m != "replace" || at >= need.layout.Size {
				return fmt.Errorf("the kernel's struct %s has no member %s: it has no livepatch support", need.name, m)
			}
		}
	}
	return nil
}
