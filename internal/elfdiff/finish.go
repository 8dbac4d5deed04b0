package elfdiff

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// finish writes the Diff's lists in an order that only depends on the input.
func (c *comparison) finish() {
	d, k := c.diff, c.carrier
	for _, n := range c.patched.nodes {
		if !n.subject() || n.chunk == nil {
			continue
		}
		f := Func{Name: n.name, Size: n.size, Source: c.patched.object.declared(n.symbol), Weak: n.symbol.Bind == 2, Code: n.chunk}
		switch n.verdict {
		case changed:
			f.Name, f.Original = n.pair.name, n.pair.symbol
			f.Weak = f.Original.Bind == 2 // STB_WEAK
			d.Changed = append(d.Changed, f)
		case fresh:
			if n.pair != nil {
				f.Original = n.pair.symbol // a copy, see copyUnhooked
			}
			d.New = append(d.New, f)
		}
	}
	d.Chunks = k.chunks
	for _, key := range sortedKeys(k.externals) {
		d.Externals = append(d.Externals, k.externals[key])
	}
	slices.SortFunc(d.Externals, compareExternals)
	slices.SortFunc(c.refusals, func(a, b Refusal) int {
		return cmp.Or(strings.Compare(string(a.Class), string(b.Class)), strings.Compare(a.Symbol, b.Symbol),
			strings.Compare(a.Section, b.Section), strings.Compare(a.Why, b.Why))
	})
	d.Refusals = slices.Compact(c.refusals)
	c.note()
}

func compareExternals(a, b *External) int {
	if by := strings.Compare(a.Name, b.Name); by != 0 || a.Original == nil || b.Original == nil {
		return by
	}
	return cmp.Compare(a.Original.Value, b.Original.Value)
}

// note says what a reviewer should know.
func (c *comparison) note() {
	for _, f := range c.diff.Changed {
		if f.Weak {
			c.diff.Notes = append(c.diff.Notes, fmt.Sprintf("%s is a weak function: another object may define the one that runs", f.Name))
		}
	}
	for _, v := range c.diff.Data {
		if !v.Copy {
			c.diff.Notes = append(c.diff.Notes, fmt.Sprintf("%s is new: it begins with its initial value when the patch is applied, and is gone with it", v.Name))
		}
	}
	for _, n := range c.orig.nodes {
		if n.subject() && n.pair == nil && !n.symbol.Local() {
			c.diff.Notes = append(c.diff.Notes, fmt.Sprintf("%s is removed by the patch and stays in the running kernel", n.name))
		}
	}
}

// Uncalled refuses the new functions of a patch that replaces none: nothing that
// runs leads to them. As a rule the change of their callers is missing.
func Uncalled(diffs []*Diff) []Refusal {
	var out []Refusal
	for _, d := range diffs {
		if len(d.Changed)+len(d.Callbacks) > 0 {
			return nil
		}
		for _, f := range d.New {
			out = append(out, Refusal{Class: ClassUncalled, Symbol: f.Name, Source: f.Source,
				Why:  "it is new, and the patch replaces no function that could call it",
				Hint: "add the change of its callers, which may be in another file, to the patch"})
		}
	}
	return out
}
