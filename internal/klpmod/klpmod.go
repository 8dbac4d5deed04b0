// Package klpmod links Diffs into one livepatch kernel module, without
// compiler, linker or kbuild: it lays out the sections, writes the klp_patch
// tables as data, and turns references into plain relocations against exported
// symbols or into klp relocations (.klp.rela.*) that the kernel resolves by
// name and position when the patched object is present.
package klpmod

import (
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
	// Modules are the shipped modules that Targets name.
	Modules map[string]*kernel.Module
	// Vermagic as shipped modules carry it.
	Vermagic string
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
	// KlpSymbols is the number of symbols that the kernel looks up at load: load time grows with it.
	KlpSymbols int
	KlpRelocs  int
	Imports    []string // exported symbols used, with versions
	// Entries counts the entries kept, by special section.
	Entries map[string]int
	// Notes are facts that a reviewer should know, as sentences.
	Notes []string
}
