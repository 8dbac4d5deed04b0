package elfdiff

import (
	"debug/elf"
	"slices"
	"strings"
)

// pairing is the bijection between the nodes of both objects.
type pairing struct {
	orig, patched *graph
	// torn holds the base names of static variables whose uses contradict each other.
	torn map[string]bool
	// constant holds those of both objects that byContent has paired.
	constant map[*node]bool
}

// newPairing pairs the named nodes.
func newPairing(orig, patched *graph) *pairing {
	p := &pairing{orig: orig, patched: patched, torn: map[string]bool{}, constant: map[*node]bool{}}
	p.byExactName()
	p.byBaseName()
	p.byContent()
	p.byUse()
	p.byScope()
	return p
}

func pairNodes(o, n *node) { o.pair, n.pair = n, o }

// pairable nodes are identities: functions, and data of which there may be only one.
func (n *node) pairable() bool {
	if n.symbol == nil || n.pair != nil || n.kind == kindAuthor {
		return false
	}
	return n.kind == kindCode || !copied(n.name, n.section.Name)
}

// staticLocal says that only its uses tell which variable it is.
func (n *node) staticLocal() bool {
	_, local := ownName(n.name)
	return n.kind != kindCode && n.symbol.Local() && local
}

func alike(o, n *node) bool {
	return o.kind == n.kind && o.function() == n.function()
}

func (p *pairing) byExactName() {
	for _, n := range p.patched.nodes {
		if !n.pairable() || n.staticLocal() {
			continue
		}
		names := append([]*Symbol{n.symbol}, n.aliases...)
		for _, sym := range names {
			mine, theirs := p.patched.byName[sym.Name], p.orig.byName[sym.Name]
			if len(mine) == 1 && len(theirs) == 1 && theirs[0].pairable() && alike(theirs[0], n) {
				pairNodes(theirs[0], n)
				break
			}
		}
	}
}

// byBaseName pairs what is left by name without numbers, in file order. For
// functions any bijection is right; a good one only keeps the patch small.
// Data qualify only if they are the only ones of their base name.
func (p *pairing) byBaseName() {
	theirs := map[string][]*node{}
	for _, o := range p.orig.nodes {
		if o.pairable() && !o.staticLocal() {
			theirs[baseName(o.name)] = append(theirs[baseName(o.name)], o)
		}
	}
	mine := map[string][]*node{}
	for _, n := range p.patched.nodes {
		if n.pairable() && !n.staticLocal() {
			mine[baseName(n.name)] = append(mine[baseName(n.name)], n)
		}
	}
	for _, n := range p.patched.nodes {
		base := baseName(n.name)
		if !n.pairable() || n.staticLocal() || !numbered(n.name) && stripUnique(n.name) == n.name && len(theirs[base]) == 0 {
			continue
		}
		if n.kind != kindCode && len(mine[base]) != len(theirs[base]) {
			continue
		}
		i := slices.IndexFunc(theirs[base], func(o *node) bool { return o.pair == nil && alike(o, n) })
		if i >= 0 {
			pairNodes(theirs[base][i], n)
		}
	}
}

// byContent pairs static constants that hold the same: without a state, any of
// them is as good as any other. A function that became another one may use them
// in another order, which would mislead byUse.
func (p *pairing) byContent() {
	theirs := map[string][]*node{}
	for _, o := range p.orig.nodes {
		if o.pairable() && o.staticLocal() && o.constant() {
			theirs[baseName(o.name)] = append(theirs[baseName(o.name)], o)
		}
	}
	judge := &comparison{equal: map[[2]*node]bool{}}
	for _, n := range p.patched.nodes {
		if !n.pairable() || !n.staticLocal() || !n.constant() {
			continue
		}
		same := func(o *node) bool { return o.pair == nil && alike(o, n) && judge.sameContent(o, n) }
		if i := slices.IndexFunc(theirs[baseName(n.name)], same); i >= 0 {
			o := theirs[baseName(n.name)][i]
			pairNodes(o, n)
			p.constant[o], p.constant[n] = true, true
		}
	}
}

// constant says that no code can change what the node holds.
func (n *node) constant() bool { return n.section.Flags&elf.SHF_WRITE == 0 && n.data != nil }

// byUse pairs static variables: what a function's variable is called depends
// on the order of all others in the file, so the only evidence is that paired
// functions (or data) use them in the same order.
func (p *pairing) byUse() {
	votes := map[*node]map[*node]bool{} // patched -> originals
	back := map[*node]map[*node]bool{}
	for progress := true; progress; {
		progress = false
		clear(votes)
		clear(back)
		for _, n := range p.patched.nodes {
			if n.pair != nil {
				p.collect(n.pair, n, votes, back)
			}
		}
		for _, n := range p.patched.nodes {
			if n.pair == nil && p.elect(n, votes, back) {
				progress = true
			}
		}
	}
}

// byScope pairs static variables that no use tells apart and that need none:
// clang writes the function into the name, and the function has one of the name.
func (p *pairing) byScope() {
	count := map[string][2]int{}
	for i, g := range []*graph{p.orig, p.patched} {
		for _, n := range g.nodes {
			if n.symbol != nil && n.staticLocal() {
				c := count[baseName(n.name)]
				c[i]++
				count[baseName(n.name)] = c
			}
		}
	}
	for _, n := range p.patched.nodes {
		base := baseName(n.name)
		if !n.pairable() || !n.staticLocal() || !strings.Contains(base, ".") || count[base] != [2]int{1, 1} || p.torn[base] {
			continue
		}
		for _, o := range p.orig.nodes {
			if o.pairable() && o.staticLocal() && baseName(o.name) == base && alike(o, n) {
				pairNodes(o, n)
				break
			}
		}
	}
}

func (p *pairing) elect(n *node, votes, back map[*node]map[*node]bool) bool {
	if len(votes[n]) != 1 {
		if len(votes[n]) > 1 {
			p.torn[baseName(n.name)] = true
		}
		return false
	}
	for o := range votes[n] {
		if len(back[o]) != 1 {
			p.torn[baseName(n.name)] = true
			return false
		}
		if o.pair != nil || !alike(o, n) {
			return false
		}
		pairNodes(o, n)
	}
	return true
}

// collect lets a pair vote for the static variables it uses.
func (p *pairing) collect(o, n *node, votes, back map[*node]map[*node]bool) {
	theirs, mine := p.statics(o), p.statics(n)
	for base, ns := range mine {
		os := theirs[base]
		if len(os) != len(ns) {
			continue
		}
		for i := range ns {
			vote(votes, ns[i], os[i])
			vote(back, os[i], ns[i])
		}
	}
}

func vote(votes map[*node]map[*node]bool, from, to *node) {
	if votes[from] == nil {
		votes[from] = map[*node]bool{}
	}
	votes[from][to] = true
}

// statics lists the static variables that a function and its parts use, by
// base name, in the order of first use, without those that byContent has paired.
func (p *pairing) statics(n *node) map[string][]*node {
	var out map[string][]*node
	for _, part := range n.unit() {
		for _, r := range part.refs {
			v := r.node
			if v == nil || v.symbol == nil || !v.staticLocal() || copied(v.name, v.section.Name) || p.constant[v] {
				continue
			}
			if out == nil {
				out = map[string][]*node{}
			}
			base := baseName(v.name)
			if !slices.Contains(out[base], v) {
				out[base] = append(out[base], v)
			}
		}
	}
	return out
}
