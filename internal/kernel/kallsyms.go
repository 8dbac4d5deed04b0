package kernel

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Symbol is one entry of a kernel's symbol table.
type Symbol struct {
	Addr uint64 // link address, before KASLR; a percpu symbol's is its offset
	// Type as nm prints it: t T for code, d D b B r R for data; upper case is
	// global, V and W are weak.
	Type byte
	Name string
}

// Kallsyms is the symbol table that every kernel carries inside: what
// /proc/kallsyms shows without modules, at link addresses.
type Kallsyms struct {
	symbols []Symbol
	byName  map[string][]int32 // indexes into symbols, ascending
}

// ErrNoKallsyms says that no symbol table was found in the kernel.
var ErrNoKallsyms = errors.New("kernel has no symbol table that can be read")

// Errors of Sympos.
var (
	ErrNoSymbol    = errors.New("kernel has no such symbol")
	errOtherSymbol = fmt.Errorf("%w at that address", ErrNoSymbol)
)

// ParseKallsyms reads the compressed symbol table out of an ELF vmlinux
// (scripts/kallsyms.c of the kernel describes the format). The parts' order
// varies between versions and stable updates, so each is found by its content
// and accepted only if it agrees with the others. Errors wrap ErrNoKallsyms.
func ParseKallsyms(vmlinux io.ReaderAt) (*Kallsyms, error) {
	f, err := openELF(vmlinux)
	if err != nil {
		return nil, fmt.Errorf("parse kallsyms: %w", err)
	}
	err = ErrNoKallsyms
	for _, s := range f.Sections {
		if s.Name != ".rodata" && s.Name != ".data" && s.Name != ".init.data" {
			continue
		}
		data, derr := sectionData(s)
		if derr != nil {
			continue
		}
		symbols, perr := findKallsyms(data)
		if perr == nil {
			return NewKallsyms(symbols), nil
		}
		if s.Name == ".rodata" {
			err = perr
		}
	}
	return nil, fmt.Errorf("parse kallsyms: %w", err)
}

// NewKallsyms makes a table of symbols in the kernel's order, which it keeps.
func NewKallsyms(symbols []Symbol) *Kallsyms {
	k := &Kallsyms{symbols: symbols, byName: make(map[string][]int32, len(symbols))}
	for i, s := range symbols {
		k.byName[s.Name] = append(k.byName[s.Name], int32(i))
	}
	return k
}

// All returns every symbol in the kernel's order. The slice is shared: do not change it.
func (k *Kallsyms) All() []Symbol { return k.symbols }

// Lookup returns the symbols of that name in the kernel's order, which is by
// address; none if there is none.
func (k *Kallsyms) Lookup(name string) []Symbol {
	at := k.byName[name]
	out := make([]Symbol, len(at))
	for i, n := range at {
		out[i] = k.symbols[n]
	}
	return out
}

// Sympos returns the position that kernel livepatch wants for the symbol at
// addr: 0 if its name is unique in vmlinux, else 1 for the first of the name
// in the kernel's order. The kernel counts every entry of the name, of
// whatever type and binding (klp_find_object_symbol). Errors wrap ErrNoSymbol.
func (k *Kallsyms) Sympos(name string, addr uint64) (int, error) {
	at := k.byName[name]
	if len(at) == 0 {
		return 0, fmt.Errorf("%s: %w", name, ErrNoSymbol)
	}
	n := slices.IndexFunc(at, func(i int32) bool { return k.symbols[i].Addr == addr })
	switch {
	case n < 0:
		return 0, fmt.Errorf("%s %#x: %w", name, addr, errOtherSymbol)
	case len(at) == 1:
		return 0, nil
	}
	return n + 1, nil
}
