package elfdiff

import (
	"fmt"
	"slices"

	"afloat/internal/kernel"
)

// table is a special section: an array whose entries each begin with a
// reference to the instruction they are about.
type table struct {
	name string
	// size returns the bytes of an entry, 0 if unknown.
	size func(kernel.Sizes) int
	// usual sizes, tried where the kernel's is not known.
	usual []int
	// compared: an entry that differs makes its function differ. Not so where
	// entries follow from the code.
	compared bool
}

func fixed(n int) func(kernel.Sizes) int { return func(kernel.Sizes) int { return n } }

// tables of x86-64 kernels 5.10 to 6.18, in the order in which a live patch carries them.
func tables() []table {
	return []table{
		{"__mcount_loc", fixed(8), nil, false},
		{"__patchable_function_entries", fixed(8), nil, false},
		{"__bug_table", func(s kernel.Sizes) int { return s.BugEntry }, []int{12}, true},
		{"__ex_table", func(s kernel.Sizes) int { return s.ExceptionTableEntry }, []int{12}, true},
		{"__jump_table", func(s kernel.Sizes) int { return s.JumpEntry }, []int{16, 24}, true},
		{".static_call_sites", func(s kernel.Sizes) int { return s.StaticCallSite }, []int{8}, true},
		{".altinstructions", func(s kernel.Sizes) int { return s.AltInstr }, []int{12, 14, 13}, true},
		{".parainstructions", func(s kernel.Sizes) int { return s.ParavirtPatchSite }, []int{16}, true},
		{".smp_locks", fixed(4), nil, true},
		{".retpoline_sites", fixed(4), nil, true},
		{".return_sites", fixed(4), nil, true},
		{".call_sites", fixed(4), nil, true},
		{".ibt_endbr_seal", fixed(4), nil, true},
		{".cfi_sites", fixed(4), nil, true},
		{".kcfi_traps", fixed(4), nil, true},
		{".orc_unwind_ip", fixed(4), nil, false},
	}
}

func isTable(name string) bool {
	return slices.ContainsFunc(tables(), func(t table) bool { return t.name == name })
}

// entry of a table.
type entry struct {
	table string
	data  []byte
	refs  []ref // offsets count from the entry's start
	owner *node // the function it is about
	at    uint64
	// orc is the .orc_unwind record that goes with an .orc_unwind_ip entry.
	orc []byte
	// replacement is the code that an .altinstructions entry may put in place.
	replacement *node
}

// maxEntry bounds an inferred size: no table has longer entries, in bytes.
const maxEntry = 32

// inferSize finds the size of an entry from the strides of the relocations:
// every entry has relocations at the same places.
func inferSize(t table, s *Section) (int, error) {
	candidates := slices.Clone(t.usual)
	for size := 4; size <= maxEntry; size++ {
		candidates = append(candidates, size)
	}
	for _, size := range candidates {
		if s.Size%uint64(size) == 0 && samePattern(s, uint64(size)) {
			return size, nil
		}
	}
	return 0, fmt.Errorf("section %s: the size of an entry is unknown", s.Name)
}

// samePattern says that all entries of that size have the same relocation offsets.
func samePattern(s *Section, size uint64) bool {
	var pattern []uint64
	for _, r := range s.Relocs {
		if r.Offset >= size {
			break
		}
		pattern = append(pattern, r.Offset)
	}
	if len(pattern) == 0 || uint64(len(pattern))*(s.Size/size) != uint64(len(s.Relocs)) {
		return false
	}
	for i, r := range s.Relocs {
		if r.Offset%size != pattern[i%len(pattern)] {
			return false
		}
	}
	return true
}
