package elfdiff

import (
	"fmt"
	"slices"
	"strings"

	"afloat/internal/kernel"
)

// table is a special section: an array whose entries each begin with a
// reference to the instruction they are about.
type table struct {
	name string
	// bytes of an entry where no kernel has another; else 0, and field is where the kernel's own is.
	bytes int
	field func(*kernel.Sizes) *int
	// usual sizes, tried where the kernel's is not known.
	usual []int
	// refs is how many references an entry has at least, where its size is not known.
	refs int
	// compared: an entry that differs makes its function differ. Not so where
	// entries follow from the code.
	compared bool
	// unpadded: the last entry may lack the padding that aligns the next one.
	unpadded bool
}

// size returns the bytes of an entry, 0 if unknown.
func (t table) size(s kernel.Sizes) int {
	if t.field == nil {
		return t.bytes
	}
	return *t.field(&s)
}

// count returns how many entries of a size a section holds, and whether they are whole.
func (t table) count(s *Section, size int) (n uint64, whole bool) {
	n, rest := s.Size/uint64(size), s.Size%uint64(size)
	if rest == 0 {
		return n, true
	}
	return n + 1, t.unpadded && uint64(size)-rest < s.Align
}

// SetEntrySize says how many bytes an entry of a special section has, where
// there is no kernel to ask.
func SetEntrySize(s *kernel.Sizes, section string, bytes int) error {
	var varying []string
	for _, t := range tables() {
		if t.field == nil {
			continue
		}
		if t.name == section {
			if bytes < 4 || bytes > maxEntry {
				return fmt.Errorf("an entry of %s has 4 to %d bytes, not %d", section, maxEntry, bytes)
			}
			*t.field(s) = bytes
			return nil
		}
		varying = append(varying, t.name)
	}
	return fmt.Errorf("section %q has no entries whose size varies: those of %s do", section, strings.Join(varying, ", "))
}

// tables of x86-64 kernels 5.10 to 6.18, in the order in which a live patch carries them.
func tables() []table {
	return []table{
		{"__mcount_loc", 8, nil, nil, 0, false, false},
		{"__patchable_function_entries", 8, nil, nil, 0, false, false},
		{"__bug_table", 0, func(s *kernel.Sizes) *int { return &s.BugEntry }, []int{12, 16}, 1, true, false},
		{"__ex_table", 0, func(s *kernel.Sizes) *int { return &s.ExceptionTableEntry }, []int{12}, 2, true, false},
		{"__jump_table", 0, func(s *kernel.Sizes) *int { return &s.JumpEntry }, []int{16, 24}, 3, true, false},
		{".static_call_sites", 0, func(s *kernel.Sizes) *int { return &s.StaticCallSite }, []int{8}, 2, true, false},
		{".altinstructions", 0, func(s *kernel.Sizes) *int { return &s.AltInstr }, []int{12, 14, 13}, 2, true, false},
		{".parainstructions", 0, func(s *kernel.Sizes) *int { return &s.ParavirtPatchSite }, []int{16}, 1, true, true},
		{".smp_locks", 4, nil, nil, 0, true, false},
		{".retpoline_sites", 4, nil, nil, 0, true, false},
		{".return_sites", 4, nil, nil, 0, true, false},
		{".call_sites", 4, nil, nil, 0, true, false},
		{".cfi_sites", 4, nil, nil, 0, true, false},
		{".kcfi_traps", 4, nil, nil, 0, true, false},
		{".orc_unwind_ip", 4, nil, nil, 0, false, false},
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
	// fromEntry: its references count from its own start, see filesFromEntry.
	fromEntry bool
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
		if _, whole := t.count(s, size); whole && samePattern(s, uint64(size), t.refs) {
			return size, nil
		}
	}
	return 0, fmt.Errorf("section %s: the size of an entry is unknown", s.Name)
}

// samePattern says that all entries of that size have the same relocation
// offsets, and enough of them.
func samePattern(s *Section, size uint64, refs int) bool {
	var pattern []uint64
	for _, r := range s.Relocs {
		if r.Offset >= size {
			break
		}
		pattern = append(pattern, r.Offset)
	}
	if len(pattern) < max(1, refs) || uint64(len(pattern))*((s.Size+size-1)/size) != uint64(len(s.Relocs)) {
		return false
	}
	for i, r := range s.Relocs {
		if r.Offset%size != pattern[i%len(pattern)] {
			return false
		}
	}
	return true
}
