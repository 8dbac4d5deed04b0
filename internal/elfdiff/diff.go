package elfdiff

import (
	"debug/elf"
	"fmt"
	"strings"

	"afloat/internal/kernel"
)

// Options says what Compare cannot see in the objects.
type Options struct {
	// Sizes of special-section entries, from the kernel's types. Where a size is
	// 0, it is inferred from the strides of the section's relocations.
	Sizes kernel.Sizes
	// BuiltIn: the objects are linked into the kernel itself, not into a module.
	BuiltIn bool
	// Unhooked are global functions without an entry hook. A copy of each goes
	// along, and what calls it in this object is replaced: the caller of Compare
	// sees to it that this is done to every object that calls it.
	Unhooked []string
	// IgnoreFunctions are left as they are, although they differ. The reason is the author's to give.
	IgnoreFunctions []string
}

// Diff is what a live patch must carry for one object file.
type Diff struct {
	// Changed functions exist in the running kernel and are replaced.
	Changed []Func `json:"changed"`
	// New functions come along because a changed one needs them.
	New []Func `json:"new"`
	// Data that comes along: new variables, and copies of what may be duplicated.
	Data []Datum `json:"data"`
	// Special counts the entries carried, by special section.
	Special map[string]int `json:"special"`
	// Externals are the symbols of the running kernel that the carried code refers to, by name.
	Externals []*External `json:"klp"`
	// NextBoot are changed functions, and tables of functions, that only boot runs. The live
	// patch does without their change, which the rest does not rely on.
	NextBoot []Func `json:"next_boot,omitempty"`
	// Unhooked are the global functions among those refused for want of an entry
	// hook: Options.Unhooked may help.
	Unhooked []string `json:"-"`
	// Callbacks, States and Waivers are what the author says in afloat-patch.h's words, by line.
	Callbacks []Callbacks `json:"callbacks,omitempty"`
	States    []State     `json:"states,omitempty"`
	Waivers   []*Waiver   `json:"waivers,omitempty"`
	boot      []bootCode  // one for each of NextBoot
	// Refusals is empty if and only if the Diff may be linked.
	Refusals []Refusal `json:"refusals"`
	// Notes are facts that a reviewer should know, as sentences.
	Notes []string `json:"notes,omitempty"`
	// Chunks is all that is carried, in an order that only depends on the input.
	Chunks []*Chunk `json:"-"`
	// Original is the object the running code was compiled from. Package proof
	// checks it and finds the address of its symbols.
	Original *Object `json:"-"`
}

// Empty says that the patched object does what the original does.
func (d *Diff) Empty() bool {
	return len(d.Changed) == 0 && len(d.Refusals) == 0 && len(d.New) == 0
}

// Func is a changed or new function.
type Func struct {
	Name string `json:"name"` // as the running kernel has it; for a new one, as the patched object has it
	Size uint64 `json:"size"` // of the patched code, bytes
	// Source is file:line of the patched function, if the object has DWARF.
	Source string `json:"source,omitempty"`
	// Weak: another object may define the function that really runs.
	Weak bool `json:"weak,omitempty"`
	// Original symbol; nil for a new function that is no copy of one that
	// cannot be redirected.
	Original *Symbol `json:"-"`
	// Code is the chunk that holds the patched function.
	Code *Chunk `json:"-"`
}

// Datum is a variable or constant that comes along.
type Datum struct {
	Name    string `json:"name"`
	Section string `json:"section"`
	Size    uint64 `json:"size"`
	// Copy: the running kernel has its own instance, which this one does not share (__func__, __already_done ...).
	Copy bool `json:"copy,omitempty"`
}

// Chunk is a run of bytes that the live patch carries as a whole.
type Chunk struct {
	// Name is a symbol's name, or "" for literals and table entries.
	Name string
	// Section is where the linked module keeps it: .text, .rodata, __bug_table ...
	Section string
	Type    elf.SectionType // SHT_PROGBITS or SHT_NOBITS
	Flags   elf.SectionFlag
	Align   uint64 // a power of two, at least 1
	EntSize uint64 // bytes per entry for tables, else 0
	Size    uint64
	Data    []byte // nil for SHT_NOBITS
	Relocs  []Fixup
	// Function says that Name is a function.
	Function bool
	// Global chunks resolve the undefined symbols of other objects of the same patch.
	Global bool
	// Entry is set for an entry of a special section: the function it belongs to.
	Entry *Chunk
}

// Fixup is one relocation of a chunk.
type Fixup struct {
	Offset uint64 // in the chunk
	Type   elf.R_X86_64
	Target Target
	// Addend as in the ELF file, counted from the start of the target.
	Addend int64
}

// Target is what a Fixup points at. Exactly one field is set.
type Target struct {
	Chunk  *Chunk
	Symbol *External
}

// External is a symbol that the live patch refers to and does not carry.
type External struct {
	Name string `json:"name"`
	// Defined by the original object; else it is undefined there and any
	// object, or the kernel's exports, may define it.
	Defined bool `json:"defined"`
	// Local to the original object: its name need not be unique in the kernel.
	Local bool `json:"local"`
	// Function rather than datum, as far as the object says.
	Function bool `json:"function,omitempty"`
	// Original is the symbol in the original object; nil if Defined is false
	// and only the patched object refers to it.
	Original *Symbol `json:"-"`
}

// Class says what kind of thing was refused.
type Class string

// The classes of refusals.
const (
	// ClassInit: code or data that is used only at boot or module load.
	ClassInit Class = "init"
	// ClassData: the initial value, size or kind of data that already exists.
	ClassData Class = "data"
	// ClassNoHook: a changed function that ftrace cannot redirect.
	ClassNoHook Class = "no-entry-hook"
	// ClassSection: a section whose meaning is not known here has changed or is needed.
	ClassSection Class = "section"
	// ClassGroup: section groups that differ.
	ClassGroup Class = "group"
	// ClassStaticLocal: static variables whose pairing cannot be proven.
	ClassStaticLocal Class = "static-local"
	// ClassSpecial: an entry of a special section that cannot be carried.
	ClassSpecial Class = "special"
	// ClassReference: a relocation whose target cannot be named.
	ClassReference Class = "reference"
	// ClassExport: exported symbols added, removed or moved.
	ClassExport Class = "export"
	// ClassAssembly: code outside of any C function.
	ClassAssembly Class = "assembly"
	// ClassJumpLabel and ClassStaticCall: keys that live in a module.
	ClassJumpLabel  Class = "jump-label"
	ClassStaticCall Class = "static-call"
	// ClassSymbol: a symbol that the running kernel does not have, or has more than once.
	ClassSymbol Class = "symbol"
	// ClassUncalled: new code that nothing in the running kernel would call.
	ClassUncalled Class = "uncalled"
	// ClassProof: the original object is not the code that runs.
	ClassProof Class = "proof"
)

// Refusal is a reason why no live patch may be made, for people to act on.
type Refusal struct {
	Class   Class  `json:"class"`
	Symbol  string `json:"symbol,omitempty"`
	Section string `json:"section,omitempty"`
	Source  string `json:"source,omitempty"` // file:line, if known
	Why     string `json:"why"`
	Hint    string `json:"hint"` // what the author can do
}

// String is one line: what, where and why.
func (r Refusal) String() string {
	where := r.Symbol
	if where == "" {
		where = r.Section
	}
	if r.Source != "" {
		where += " (" + r.Source + ")"
	}
	return fmt.Sprintf("cannot live patch %s: %s", where, r.Why)
}

// RefusedError carries refusals through an error return.
type RefusedError struct{ Refusals []Refusal }

// Error lists every refusal, one per line.
func (e *RefusedError) Error() string {
	lines := make([]string, len(e.Refusals))
	for i, r := range e.Refusals {
		lines[i] = r.String()
	}
	return strings.Join(lines, "\n")
}
