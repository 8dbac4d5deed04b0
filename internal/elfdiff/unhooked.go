package elfdiff

import (
	"fmt"
	"slices"
)

// use is a reference to a function from a node.
type use struct {
	from *node
	ref  ref
}

// copyUnhooked deals with changed functions that nothing can redirect, such as
// an inline function that the compiler did not inline. If only calls inside
// this object lead to such a function, or Options.Unhooked names it, a copy of it
// goes along as if it were new, and its callers are replaced instead. A caller
// that cannot be replaced either is refused later, under its own name.
func (c *comparison) copyUnhooked() {
	c.replaceCallers()
	var todo []*node
	for _, n := range c.patched.nodes {
		if n.subject() && n.verdict == changed && c.copyable(n) {
			todo = append(todo, n)
		}
	}
	if len(todo) == 0 {
		return
	}
	uses := c.patched.uses()
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		if n.verdict != changed || !onlyCalls(n, uses[n]) || n.symbol.Local() && len(uses[n]) == 0 {
			continue
		}
		n.setVerdict(fresh)
		c.diff.Notes = append(c.diff.Notes, fmt.Sprintf("%s has no entry hook: a copy of it goes along, and its callers are replaced", n.name))
		for _, u := range uses[n] {
			caller := u.from.head()
			if caller == n || caller.verdict != same || discarded(caller.section.Name) {
				continue
			}
			caller.setVerdict(changed)
			if c.copyable(caller) {
				todo = append(todo, caller)
			}
		}
	}
}

// replaceCallers replaces what calls one of Options.Unhooked in another object.
func (c *comparison) replaceCallers() {
	for _, n := range c.patched.nodes {
		if !n.function() || n.head().verdict != same || discarded(n.section.Name) {
			continue
		}
		for _, u := range references(n) {
			if u.ref.node == nil && slices.Contains(c.opts.Unhooked, u.ref.symbol.Name) {
				n.head().setVerdict(changed)
			}
		}
	}
}

func (c *comparison) copyable(n *node) bool {
	local := n.pair != nil && n.symbol.Local() && n.pair.symbol.Local()
	return n.pair != nil && !n.pair.hooked && (local || slices.Contains(c.opts.Unhooked, n.pair.name)) &&
		!discarded(n.section.Name) && !discarded(n.pair.section.Name) && n.section.Name != ".static_call.text"
}

// onlyCalls says that every use is a call or jump from a function.
func onlyCalls(n *node, uses []use) bool {
	for _, u := range uses {
		inside := u.from.kind == kindCode && u.from.head() == n
		if !inside && (!u.from.function() || !isBranch(u.from, u.ref)) {
			return false
		}
	}
	return true
}

// uses lists who refers to each function, entries of special sections apart.
func (g *graph) uses() map[*node][]use {
	out := map[*node][]use{}
	for _, list := range g.bySection {
		for _, n := range list {
			for _, r := range n.refs {
				if r.node != nil && r.node.function() {
					out[r.node.head()] = append(out[r.node.head()], use{n, r})
				}
			}
		}
	}
	for _, e := range g.entries {
		if e.replacement == nil {
			continue
		}
		for _, r := range e.replacement.refs {
			if r.node != nil && r.node.function() && r.node.head() != e.owner.head() {
				out[r.node.head()] = append(out[r.node.head()], use{e.replacement, r})
			}
		}
	}
	return out
}

// setVerdict gives a function and its .cold parts their verdict.
func (n *node) setVerdict(v verdict) {
	for _, part := range n.unit() {
		part.verdict = v
	}
}
