package proof

import (
	"bytes"
	"debug/elf"
	"fmt"
	"strings"

	"afloat/internal/elfdiff"
)

const elfWeak = elf.STB_WEAK

const textSection = elf.SHF_MERGE | elf.SHF_STRINGS

// isText says that a section holds string literals of one byte per character.
func isText(s *elfdiff.Section) bool {
	return s.Flags&textSection == textSection && s.EntSize == 1
}

func cut(b []byte) (string, bool) {
	text, _, ok := bytes.Cut(b, []byte{0})
	return string(text), ok
}

// twins maps the symbols of one compilation to those of another of the same
// source: the n-th of a name and type to the n-th.
func twins(from, to *elfdiff.Object) func(*elfdiff.Symbol) *elfdiff.Symbol {
	if from == to {
		return func(s *elfdiff.Symbol) *elfdiff.Symbol { return s }
	}
	type key struct {
		name  string
		kind  elf.SymType
		bind  elf.SymBind
		count int
	}
	index := func(o *elfdiff.Object, visit func(key, *elfdiff.Symbol)) {
		seen := map[key]int{}
		for _, s := range o.Symbols {
			if s.Section == nil || s.Type == elf.STT_SECTION {
				continue
			}
			k := key{name: s.Name, kind: s.Type, bind: s.Bind}
			k.count = seen[k]
			seen[key{name: s.Name, kind: s.Type, bind: s.Bind}]++
			visit(k, s)
		}
	}
	byKey, pairs := map[key]*elfdiff.Symbol{}, map[*elfdiff.Symbol]*elfdiff.Symbol{}
	index(to, func(k key, s *elfdiff.Symbol) { byKey[k] = s })
	index(from, func(k key, s *elfdiff.Symbol) { pairs[s] = byKey[k] })
	return func(s *elfdiff.Symbol) *elfdiff.Symbol { return pairs[s] }
}

// locate fills in the Places of an object's symbols from where their twins are.
func (c *checker) locate(o *elfdiff.Object, twin func(*elfdiff.Symbol) *elfdiff.Symbol) {
	for _, s := range o.Symbols {
		t := twin(s)
		if t == nil || t.Section == nil || t.Name == "" || t.Type == elf.STT_SECTION {
			continue
		}
		base, placed := c.placer.bases[t.Section]
		if !placed || !c.img.has(t.Name, base+t.Value) {
			continue
		}
		addr := base + t.Value
		if pos, err := c.img.sympos(t.Name, addr); err == nil {
			c.result.Places[s] = Place{Addr: addr, Sympos: pos}
		}
	}
}

// overridden is the verdict on a weak function that another object defines as well.
const overridden = "another object's function of that name is the one that runs"

const hint = "Build with the compiler, configuration and source that the distribution built this kernel from; " +
	"`afloat inspect` on an earlier bundle for the kernel names them."

// require adds a refusal unless a function that the Diff replaces or copies,
// and the halves that the compiler split off, are the running code.
func (c *checker) require(o *elfdiff.Object, f elfdiff.Func, twin func(*elfdiff.Symbol) *elfdiff.Symbol, anywhere bool) {
	if f.Original == nil {
		return
	}
	for _, s := range o.Symbols {
		if s != f.Original && !halfOf(s, f.Original) {
			continue
		}
		why := "the plain compilation has no such function"
		if t := twin(s); t != nil {
			v := c.verdicts[t]
			if v.unplaced && anywhere {
				continue
			}
			why = v.why
		}
		hint := hint
		if why == overridden {
			hint = "Change the function that runs, or what calls it, and leave this one as it is."
		}
		if why != "" {
			c.result.Refusals = append(c.result.Refusals, elfdiff.Refusal{
				Class: elfdiff.ClassProof, Symbol: s.Name, Section: s.Section.Name, Source: f.Source, Why: why, Hint: hint,
			})
		}
	}
}

// halfOf says that s is the unlikely part of function f.
func halfOf(s, f *elfdiff.Symbol) bool {
	rest, ok := strings.CutPrefix(s.Name, f.Name+".cold")
	return ok && s.Function() && s.Section != nil && strings.Trim(rest, ".0123456789") == ""
}

func (r *Result) sentences(source, image string, plain bool) []string {
	how := ""
	if plain {
		how = ", compiled as the kernel's own build does,"
	}
	out := []string{fmt.Sprintf("%s%s: %d of %d functions are byte for byte those of the shipped %s, and %d relocation targets agree with its symbol table.",
		source, how, r.Identical, r.Identical+r.Different+r.Unplaced, image, r.Relocs)}
	if r.Different > 0 {
		out = append(out, fmt.Sprintf("%s: %d functions differ from the shipped ones; the patch replaces %d of them.", source, r.Different, len(r.Refusals)))
	}
	if n := r.Unplaced; n > 0 {
		out = append(out, fmt.Sprintf("%s: %d functions share their name with others and were not found.", source, n))
	}
	if n := r.Overridden; n > 0 {
		out = append(out, fmt.Sprintf("%s: %d weak functions are overridden by other objects and were not compared.", source, n))
	}
	if n := r.Skipped; n > 0 {
		out = append(out, fmt.Sprintf("%s: %d functions that run only at boot were not compared.", source, n))
	}
	return out
}
