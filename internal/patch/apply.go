package patch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
)

// Result is source text after patches.
type Result struct {
	// Files maps the path of each touched file to its new text; nil where the patches delete it.
	Files map[string][]byte
	// New names the files that the tree did not have.
	New map[string]bool
	// Notes say where a hunk was applied at another line than it names, as sentences.
	Notes []string
}

// Paths lists the touched files, sorted.
func (r *Result) Paths() []string { return slices.Sorted(maps.Keys(r.Files)) }

// ConflictError says which hunk of which patch does not fit, and why.
type ConflictError struct {
	Patch string
	File  string
	Hunk  int    // from 1; 0 for the file as a whole
	At    string // the hunk's header
	Why   string
}

func (e *ConflictError) Error() string {
	if e.Hunk == 0 {
		return fmt.Sprintf("apply patch %s: %s: %s", e.Patch, e.File, e.Why)
	}
	return fmt.Sprintf("apply patch %s: %s: hunk %d (%s): %s", e.Patch, e.File, e.Hunk, e.At, e.Why)
}

// Apply applies patches in order to the text that read returns. read returns
// an error that wraps fs.ErrNotExist for a file that is not there. A patch that
// does not fit is a *ConflictError.
func Apply(read func(path string) ([]byte, error), patches ...*Patch) (*Result, error) {
	a := applier{read: read, out: Result{Files: map[string][]byte{}, New: map[string]bool{}}}
	for _, p := range patches {
		for _, c := range p.changes {
			if err := a.change(p, c); err != nil {
				return nil, err
			}
		}
	}
	return &a.out, nil
}

type applier struct {
	read func(string) ([]byte, error)
	out  Result
}

// text returns a file as the patches so far left it.
func (a *applier) text(path string) ([]byte, error) {
	if text, touched := a.out.Files[path]; touched {
		if text == nil {
			return nil, fs.ErrNotExist
		}
		return text, nil
	}
	return a.read(path)
}

func (a *applier) exists(path string) bool {
	_, err := a.text(path)
	return err == nil
}

func (a *applier) change(p *Patch, c change) error {
	conflict := func(file string, err error) error {
		return &ConflictError{Patch: p.Name, File: file, Why: err.Error()}
	}
	if c.kind == rename {
		return conflict(c.oldName, fmt.Errorf("renames or copies it to %s, which a live patch cannot", c.newName))
	}
	path, err := c.resolve(a.exists)
	if errors.Is(err, ErrNoFile) {
		return conflict(cmpOr(c.newName, c.oldName), ErrNoFile)
	}
	if err != nil {
		return conflict(cmpOr(c.newName, c.oldName), err)
	}
	text, err := a.text(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case err != nil && !missing:
		return fmt.Errorf("apply patch %s: %w", p.Name, err)
	case missing && c.kind != create:
		return conflict(path, ErrNoFile)
	case !missing && c.kind == create && len(text) > 0:
		return conflict(path, errors.New("the file to be made is there already"))
	}
	if missing {
		a.out.New[path] = true
	}
	return a.hunks(p, c, path, text)
}

func (a *applier) hunks(p *Patch, c change, path string, text []byte) error {
	lines := splitLines(string(text))
	drift, done := 0, 0 // of the line numbers so far; of lines already settled
	for i, h := range c.hunks {
		at, why := place(lines, h, drift, done)
		if why != "" {
			return &ConflictError{Patch: p.Name, File: path, Hunk: i + 1, At: h.header, Why: why}
		}
		if moved := at - (h.expected() + drift); moved != 0 {
			a.out.Notes = append(a.out.Notes, fmt.Sprintf("%s: %s: hunk %d applies %+d lines from where it says", p.Name, path, i+1, moved))
		}
		drift = at - h.expected() + len(h.after) - len(h.before)
		lines = slices.Concat(lines[:at], h.after, lines[at+len(h.before):])
		done = at + len(h.after)
	}
	if c.kind == remove {
		if len(lines) > 0 {
			return &ConflictError{Patch: p.Name, File: path, Why: "the file to be deleted has other content"}
		}
		a.out.Files[path] = nil
		return nil
	}
	a.out.Files[path] = []byte(strings.Join(lines, ""))
	return nil
}

// expected is the index of the hunk's first line in a file that nothing else changed.
func (h hunk) expected() int {
	if len(h.before) == 0 { // a pure insertion names the line before it
		return h.at
	}
	return max(0, h.at-1)
}

// place finds where a hunk's old lines are, from line index from on: where it
// says, else at the one other place that has them. Two places are none: a fix
// in the wrong one would go unseen.
func place(lines []string, h hunk, drift, from int) (at int, why string) {
	want := h.expected() + drift
	if want >= from && matches(lines, want, h.before) {
		return want, ""
	}
	if len(h.before) == 0 {
		return 0, "it inserts lines without context beyond the end of the file"
	}
	found := -1
	for i := from; i+len(h.before) <= len(lines); i++ {
		if !matches(lines, i, h.before) {
			continue
		}
		if found >= 0 {
			return 0, fmt.Sprintf("the lines it changes are not where it says, but at lines %d and %d", found+1, i+1)
		}
		found = i
	}
	if found < 0 {
		return 0, absent(lines, h)
	}
	return found, ""
}

// absent explains a hunk whose lines are nowhere.
func absent(lines []string, h hunk) string {
	for i := 0; len(h.after) > 0 && i+len(h.after) <= len(lines); i++ {
		if matches(lines, i, h.after) {
			return fmt.Sprintf("it is applied already, at line %d", i+1)
		}
	}
	return "the lines it changes are not in the file"
}

func matches(lines []string, at int, want []string) bool {
	if at < 0 || at+len(want) > len(lines) {
		return false
	}
	return slices.Equal(lines[at:at+len(want)], want)
}

// splitLines keeps line ends, so that joining gives the text back.
func splitLines(text string) []string {
	return slices.Collect(strings.Lines(text))
}
