// Package proof checks that an original object, compiled from the distribution's
// source, is the code that the shipped kernel runs. Functions are compared byte
// for byte with relocation fields masked, and each relocation's target is
// recomputed from the shipped bytes and looked up by name. That also tells
// which of several symbols of one name is this object's.
//
// The image is the file as shipped, before the kernel has patched itself
// (alternatives, jump labels, static calls, ftrace), so relocations are all that
// needs masking. The package reads what the caller opened and returns values.
package proof

import (
	"fmt"

	"afloat/internal/elfdiff"
)

// Places says where symbols of an original object are in the shipped kernel.
type Places map[*elfdiff.Symbol]Place

// Place is one symbol's position.
type Place struct {
	// Addr is the link address in vmlinux, or for a module the address that its Image made up.
	Addr uint64
	// Sympos is what kernel livepatch wants: 0 if the name is unique in its
	// object, else 1 for the first of the name.
	Sympos int
}

// Result of a check.
type Result struct {
	Places Places
	// Identical and Different count functions. Skipped ones are gone after boot.
	// Overridden ones are weak, and the kernel runs another object's. Unplaced
	// ones share their name with others, and nothing tells which is this object's.
	Identical, Different, Skipped, Overridden, Unplaced int
	// Relocs counts recomputed relocation targets that agree with the symbol
	// table; Unknown those that it cannot confirm or deny.
	Relocs, Unknown int
	// Refusals name the functions that the Diff replaces, or carries a changed copy
	// of, and that are not the running code.
	Refusals []elfdiff.Refusal
	// Evidence is the result in sentences, for the bundle's manifest.
	Evidence []string
}

// Input is one object file to check.
type Input struct {
	// Source is the path of the source or object file, for sentences.
	Source string
	Diff   *elfdiff.Diff
	// Plain is the original object compiled exactly as the kernel's own build
	// does, without -ffunction-sections, or nil. Where two functions jump to each
	// other over a short distance, the sections change the instruction, and only
	// the plain object can be identical to the shipped code.
	Plain *elfdiff.Object
}

// Check compares the original object behind a Diff with the shipped image.
// Where the Result has Refusals and Input had no Plain object, a second check
// with one is worthwhile.
func (img *Image) Check(in Input) *Result {
	subject := in.Diff.Original
	if in.Plain != nil {
		subject = in.Plain
	}
	c := checker{img: img, placer: place(img, subject), result: &Result{Places: Places{}}, verdicts: map[*elfdiff.Symbol]verdict{}}
	for _, s := range subject.Symbols {
		if s.Function() && s.Section != nil && s.Section.Alloc() && s.Size > 0 {
			c.verdicts[s] = c.judge(s)
		}
	}
	twin := twins(in.Diff.Original, subject)
	c.locate(in.Diff.Original, twin)
	for _, f := range in.Diff.Changed {
		c.require(in.Diff.Original, f, twin, false)
	}
	for _, f := range in.Diff.New {
		// A copy takes nobody's place, so it need not be told from its namesakes.
		c.require(in.Diff.Original, f, twin, true)
	}
	c.result.Evidence = c.result.sentences(in.Source, img.name, in.Plain != nil)
	return c.result
}

type checker struct {
	img      *Image
	placer   *placer
	result   *Result
	verdicts map[*elfdiff.Symbol]verdict
}

// verdict on one function; an empty why says that it is the running code.
type verdict struct {
	why string
	// unplaced: it may be the running code, but nothing tells where that is.
	unplaced bool
}

func (c *checker) judge(s *elfdiff.Symbol) verdict {
	if gone(s.Section) {
		c.result.Skipped++
		return verdict{why: "it runs only at boot or when the module loads"}
	}
	base, placed := c.placer.bases[s.Section]
	switch {
	case s.Bind != elfWeak && len(c.img.symbols[s.Name]) == 0:
		c.result.Different++
		return verdict{why: fmt.Sprintf("%s has no function of that name", c.img.name)}
	case s.Bind == elfWeak && (!placed || !c.img.has(s.Name, base+s.Value) || !c.img.identical(s, base+s.Value)):
		c.result.Overridden++
		return verdict{why: overridden}
	case !placed:
		c.result.Unplaced++
		return verdict{unplaced: true,
			why: fmt.Sprintf("%s has %d functions of that name, and nothing proves which is this one", c.img.name, len(c.img.symbols[s.Name]))}
	}
	return c.judgePlaced(s, base+s.Value)
}

func (c *checker) judgePlaced(s *elfdiff.Symbol, addr uint64) verdict {
	at, differs, readable := c.img.compare(s, addr)
	why := ""
	switch {
	case !c.img.has(s.Name, addr):
		why = fmt.Sprintf("%s does not have it at %#x, where the rest of its section is", c.img.name, addr)
	case !readable:
		why = fmt.Sprintf("%s has no code at %#x", c.img.name, addr)
	case differs:
		why = fmt.Sprintf("its compiled code differs from the shipped one from byte %d on", at)
	default:
		why = c.judgeRelocs(s)
	}
	if why == "" {
		c.result.Identical++
	} else {
		c.result.Different++
	}
	return verdict{why: why}
}

// judgeRelocs says which relocation of an otherwise identical function points
// elsewhere in the shipped code, or "".
func (c *checker) judgeRelocs(s *elfdiff.Symbol) string {
	why := ""
	for _, r := range relocsIn(s) {
		addr, ok := c.placer.target(s.Section, r)
		if !ok {
			c.result.Unknown++
			continue
		}
		switch c.agrees(r, addr) {
		case agree:
			c.result.Relocs++
		case unknown:
			c.result.Unknown++
		case disagree:
			why = fmt.Sprintf("at byte %d it refers to %s, where the shipped code refers to %s", r.Offset-s.Value, target(r), c.img.nameAt(addr))
		}
	}
	return why
}

func target(r elfdiff.Reloc) string {
	if r.Addend > 8 || r.Addend < -8 {
		return fmt.Sprintf("%s%+d", r.Symbol.Name, r.Addend)
	}
	return r.Symbol.Name
}

type agreement int

const (
	unknown agreement = iota // the image's symbols do not tell
	agree
	disagree
)

// agrees compares the address that a relocation's symbol has in the shipped
// code with where the image says that the symbol is.
func (c *checker) agrees(r elfdiff.Reloc, addr uint64) agreement {
	s := r.Symbol
	if s.Section == nil {
		at := c.img.lookup(s.Name, true)
		switch {
		case len(at) == 0:
			return unknown
		case c.img.has(s.Name, addr):
			return agree
		}
		return disagree
	}
	if isText(s.Section) {
		return c.sameText(r, addr)
	}
	base, placed := c.placer.bases[s.Section]
	switch {
	case !placed && !s.Local() && c.img.has(s.Name, addr):
		return agree // a weak function that another object overrides
	case !placed && (c.placer.torn[s.Section] || !c.placer.plausible(s.Section, addr-s.Value)):
		return disagree // with another reference, or with where the names are
	case !placed:
		return unknown
	case base+s.Value == addr, s.Bind == elfWeak && c.img.has(s.Name, addr):
		return agree
	}
	return disagree
}

// sameText compares the string literal that a relocation points at. Where it
// counts from the instruction's end, whose place is not known, nothing is said.
func (c *checker) sameText(r elfdiff.Reloc, addr uint64) agreement {
	at := r.Symbol.Value + uint64(r.Addend)
	if elfdiff.PCRelative(r.Type) || at >= uint64(len(r.Symbol.Section.Data)) {
		return unknown
	}
	want, ok := cut(r.Symbol.Section.Data[at:])
	if !ok {
		return unknown
	}
	have, ok := c.img.text(addr+uint64(r.Addend), uint64(len(want)))
	if !ok || have != want {
		return disagree
	}
	return agree
}
