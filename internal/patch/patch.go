// Package patch reads unified diffs, says which files they touch, refuses what
// no live patch can do before anything is compiled, and applies them to source
// text. It does no IO: the caller reads the files.
package patch

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"
)

// MaxSize bounds a diff, in bytes.
const MaxSize = 16 << 20

// Patch is one parsed diff. Its changes apply in order; one file may have several.
type Patch struct {
	Name    string // for messages: the file it came from
	Text    []byte
	changes []change
}

// change is what a diff does to one file, under the names that it gives.
type change struct {
	oldName, newName string // "" for /dev/null
	git              bool   // a git diff, whose names the parser has stripped already
	hunks            []hunk
	kind             kind
}

type kind int

const (
	modify kind = iota
	create
	remove
	rename
)

// hunk is one @@ block.
type hunk struct {
	header string
	at     int // first line it changes, from 1; 0 for a file that does not exist yet
	before []string
	after  []string
}

// Parse reads a diff: git's, or plain `diff -u`'s. Text around it is skipped.
func Parse(name string, text []byte) (*Patch, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("parse patch %s: larger than %d bytes", name, MaxSize)
	}
	files, _, err := gitdiff.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("parse patch %s: %w", name, err)
	}
	p := &Patch{Name: name, Text: text}
	git := bytes.HasPrefix(text, []byte("diff --git ")) || bytes.Contains(text, []byte("\ndiff --git "))
	for _, f := range files {
		c, err := newChange(f, git)
		if err != nil {
			return nil, fmt.Errorf("parse patch %s: %w", name, err)
		}
		p.changes = append(p.changes, c)
	}
	if len(p.changes) == 0 {
		return nil, fmt.Errorf("parse patch %s: no unified diff in it", name)
	}
	if err := p.checkWhole(); err != nil {
		return nil, fmt.Errorf("parse patch %s: %w", name, err)
	}
	return p, nil
}

// checkWhole refuses a diff of which a part was not understood: every line
// that begins a hunk must have become one, or a fix would be applied by half.
func (p *Patch) checkWhole() error {
	headers := 0
	for line := range bytes.Lines(p.Text) {
		if bytes.HasPrefix(line, []byte("@@ -")) {
			headers++
		}
	}
	hunks := 0
	for _, c := range p.changes {
		hunks += len(c.hunks)
	}
	if hunks < headers {
		return fmt.Errorf("only %d of its %d hunks can be read", hunks, headers)
	}
	return nil
}

func newChange(f *gitdiff.File, git bool) (change, error) {
	c := change{oldName: f.OldName, newName: f.NewName, git: git}
	who := cmpOr(f.NewName, f.OldName)
	switch {
	case f.IsBinary:
		return c, fmt.Errorf("%s: a binary diff", who)
	case f.IsNew:
		c.kind = create
	case f.IsDelete:
		c.kind = remove
	case f.IsRename || f.IsCopy:
		c.kind = rename
	}
	for _, t := range f.TextFragments {
		if err := t.Validate(); err != nil {
			return c, fmt.Errorf("%s: hunk %s: %w", who, strings.TrimSpace(t.Header()), err)
		}
		h := hunk{header: strings.TrimSpace(t.Header()), at: int(t.OldPosition)}
		for _, line := range t.Lines {
			if line.Op != gitdiff.OpAdd {
				h.before = append(h.before, line.Line)
			}
			if line.Op != gitdiff.OpDelete {
				h.after = append(h.after, line.Line)
			}
		}
		c.hunks = append(c.hunks, h)
	}
	if c.kind == modify && len(c.hunks) == 1 && c.hunks[0].at == 0 && len(c.hunks[0].before) == 0 {
		c.kind = create
	}
	return c, nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// ErrNoFile says that a diff changes a file that the source tree does not have.
var ErrNoFile = errors.New("the source tree has no such file")

// resolve finds the path in the tree that a change means: its name, or its
// name without the leading folders that `diff -ruN a b` puts there.
func (c change) resolve(exists func(string) bool) (string, error) {
	names := slices.DeleteFunc([]string{c.newName, c.oldName}, func(s string) bool { return s == "" || s == "/dev/null" })
	if len(names) == 0 {
		return "", errors.New("the diff names no file")
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return "", err
		}
		for _, candidate := range c.candidates(name) {
			if exists(candidate) {
				return candidate, nil
			}
		}
	}
	if c.kind == create {
		return c.resolveNew(names[0], exists), nil
	}
	return "", fmt.Errorf("%s: %w", names[0], ErrNoFile)
}

// candidates are the paths that a name may stand for. A git diff's a/ and b/
// are gone already; in a plain one, up to two folders may lead to the tree's
// root, but not so that only a file's name is left: many folders have a Makefile.
func (c change) candidates(name string) []string {
	out := []string{name}
	if c.git {
		return out
	}
	for strip := 1; strip <= 2; strip++ {
		_, rest, more := strings.Cut(name, "/")
		if !more || strip == 2 && !strings.Contains(rest, "/") {
			break
		}
		name, out = rest, append(out, rest)
	}
	return out
}

// resolveNew places a new file where its folder is part of the kernel's build.
func (c change) resolveNew(name string, exists func(string) bool) string {
	for _, candidate := range c.candidates(name) {
		dir := path.Dir(candidate)
		if dir != "." && (exists(dir+"/Makefile") || exists(dir+"/Kconfig") || exists(dir+"/Kbuild")) {
			return candidate
		}
	}
	return name
}

// checkName refuses a path that would leave the tree.
func checkName(name string) error {
	if path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") {
		return fmt.Errorf("%q leaves the source tree", name)
	}
	return nil
}
