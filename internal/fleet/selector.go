package fleet

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Selector chooses hosts by their labels, in Kubernetes selector syntax:
// env=prod, service!=db, zone in (a,b), tier notin (rc), gpu, !gpu, joined by
// commas that all must hold. The zero Selector chooses every host.
type Selector struct {
	text  string
	terms []Term
}

// Op is how a Term compares a label.
type Op uint8

const (
	OpIn        Op = iota // the label is there and is one of Values
	OpNotIn               // the label is not there, or is none of Values
	OpExists              // the label is there
	OpNotExists           // the label is not there
)

// Term is one requirement of a Selector.
type Term struct {
	Key    string
	Op     Op
	Values []string
}

// SelectorError says where a selector cannot be read.
type SelectorError struct {
	Input string
	Pos   int // byte offset in Input, from 0
	Msg   string
}

func (e *SelectorError) Error() string {
	return fmt.Sprintf("parse selector %q: at %d: %s", e.Input, e.Pos+1, e.Msg)
}

var (
	keyPattern   = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	valuePattern = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
)

// ParseSelector reads a selector. Its errors are *SelectorError.
func ParseSelector(s string) (Selector, error) {
	p := selectorParser{in: s}
	p.space()
	var terms []Term
	for p.pos < len(s) {
		term, err := p.term()
		if err != nil {
			return Selector{}, err
		}
		terms = append(terms, term)
		if err := p.comma(); err != nil {
			return Selector{}, err
		}
	}
	return Selector{text: strings.TrimSpace(s), terms: terms}, nil
}

// String is the selector as it was written.
func (s Selector) String() string { return s.text }

// All says that the selector chooses every host.
func (s Selector) All() bool { return len(s.terms) == 0 }

// Terms are the requirements; the caller must not change them.
func (s Selector) Terms() []Term { return s.terms }

// Matches says whether all terms hold for the labels.
func (s Selector) Matches(l Labels) bool {
	for _, t := range s.terms {
		if !t.Matches(l) {
			return false
		}
	}
	return true
}

// Matches says whether the term holds for the labels. As in Kubernetes, a
// missing label satisfies != and notin.
func (t Term) Matches(l Labels) bool {
	v, ok := l[t.Key]
	switch t.Op {
	case OpIn:
		return ok && slices.Contains(t.Values, v)
	case OpNotIn:
		return !ok || !slices.Contains(t.Values, v)
	case OpExists:
		return ok
	default:
		return !ok
	}
}

type selectorParser struct {
	in  string
	pos int
}

func (p *selectorParser) fail(pos int, format string, args ...any) error {
	return &SelectorError{Input: p.in, Pos: pos, Msg: fmt.Sprintf(format, args...)}
}

func (p *selectorParser) space() {
	for p.pos < len(p.in) && (p.in[p.pos] == ' ' || p.in[p.pos] == '\t') {
		p.pos++
	}
}

func (p *selectorParser) take(token string) bool {
	if !strings.HasPrefix(p.in[p.pos:], token) {
		return false
	}
	p.pos += len(token)
	p.space()
	return true
}

// word reads up to a character that cannot be in a key or value.
func (p *selectorParser) word() (string, int) {
	start := p.pos
	for p.pos < len(p.in) && !strings.ContainsRune(" \t,=!()<>", rune(p.in[p.pos])) {
		p.pos++
	}
	w := p.in[start:p.pos]
	p.space()
	return w, start
}

func (p *selectorParser) comma() error {
	if p.pos == len(p.in) {
		return nil
	}
	at := p.pos
	if !p.take(",") {
		return p.fail(at, "want a comma, got %q", p.in[at:])
	}
	if p.pos == len(p.in) {
		return p.fail(at, "nothing after the comma")
	}
	return nil
}

func (p *selectorParser) term() (Term, error) {
	negated := p.take("!")
	key, at := p.word()
	if !keyPattern.MatchString(key) {
		return Term{}, p.fail(at, "%q is not a label key", key)
	}
	if negated {
		return Term{Key: key, Op: OpNotExists}, nil
	}
	switch {
	case p.take("!="):
		return p.single(key, OpNotIn)
	case p.take("=="), p.take("="):
		return p.single(key, OpIn)
	case p.pos < len(p.in) && (p.in[p.pos] == '<' || p.in[p.pos] == '>'):
		return Term{}, p.fail(p.pos, "labels are not compared by size")
	case p.pos == len(p.in) || p.in[p.pos] == ',':
		return Term{Key: key, Op: OpExists}, nil
	}
	return p.set(key)
}

func (p *selectorParser) single(key string, op Op) (Term, error) {
	v, err := p.value()
	return Term{Key: key, Op: op, Values: []string{v}}, err
}

func (p *selectorParser) value() (string, error) {
	v, at := p.word()
	if !valuePattern.MatchString(v) {
		return "", p.fail(at, "%q is not a label value", v)
	}
	return v, nil
}

func (p *selectorParser) set(key string) (Term, error) {
	word, at := p.word()
	t := Term{Key: key, Op: OpIn}
	switch word {
	case "in":
	case "notin":
		t.Op = OpNotIn
	default:
		return t, p.fail(at, "want =, !=, in or notin after %q", key)
	}
	if at := p.pos; !p.take("(") {
		return t, p.fail(at, "want ( after %s", word)
	}
	for {
		v, err := p.value()
		if err != nil {
			return t, err
		}
		t.Values = append(t.Values, v)
		if p.take(")") {
			return t, nil
		}
		if at := p.pos; !p.take(",") {
			return t, p.fail(at, "want a comma or )")
		}
	}
}
