// Package proof checks that an original object, compiled from the distribution's
// source, is the code that the shipped kernel runs. Functions are compared byte
// for byte with relocation fields masked, and each relocation's target is
// recomputed from the shipped bytes and looked up by name. That also tells
// which of several symbols of one name is this object's.
//
// It reads what the caller opened and returns values; it never refuses by itself
// what the caller may still want: a Result says which functions are proven.
package proof

import (
	"afloat/internal/elfdiff"
)

// Places says where symbols of an original object are in the shipped kernel.
type Places map[*elfdiff.Symbol]Place

// Place is one symbol's position.
type Place struct {
	// Addr is the link address in vmlinux, or for a module the offset in its section.
	Addr uint64
	// Sympos is what kernel livepatch wants: 0 if the name is unique in its
	// object, else 1 for the first of the name.
	Sympos int
}

// Result of a check.
type Result struct {
	Places Places
	// Identical and Different count functions; Skipped those that are gone after boot.
	Identical, Different, Skipped int
	// Relocs counts recomputed relocation targets that agree with the symbol table.
	Relocs int
	// Refusals name the functions that the Diff replaces and that are not the running code.
	Refusals []elfdiff.Refusal
	// Evidence is the result in sentences, for the bundle's manifest.
	Evidence []string
}
