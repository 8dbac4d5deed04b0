package risk

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"afloat/internal/bundle"
)

// Profile is where a host's time goes, by kernel function.
type Profile struct {
	shares map[string]Share
}

// Share is a function's part of all samples, from 0 to 1.
type Share struct {
	Self float64 // in the function itself
	// Total is with what it calls; 0 where the profile does not say.
	Total float64
}

// maxLine bounds a line of a profile, in bytes: a folded stack is long.
const maxLine = 1 << 20

// ProfileError says where a profile is wrong.
type ProfileError struct {
	Line int // from 1; 0 when the profile as a whole is meant
	Msg  string
}

func (e *ProfileError) Error() string {
	if e.Line == 0 {
		return "read profile: " + e.Msg
	}
	return fmt.Sprintf("read profile: line %d: %s", e.Line, e.Msg)
}

// ReadProfile reads what `perf report --stdio` or `perf script` prints, or
// folded stacks: lines of "command;outermost;...;innermost count", as
// stackcollapse-perf.pl makes them of the latter. Errors are *ProfileError.
func ReadProfile(r io.Reader) (*Profile, error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	var reader profileReader
	n := 0
	for in.Scan() {
		n++
		line := strings.TrimRight(in.Text(), " \t\r")
		if reader == nil && line != "" {
			reader = readerFor(line)
		}
		if reader == nil {
			continue
		}
		if err := reader.line(line); err != nil {
			return nil, &ProfileError{Line: n, Msg: err.Error()}
		}
	}
	if err := in.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, &ProfileError{Line: n + 1, Msg: fmt.Sprintf("longer than %d bytes", maxLine)}
	} else if err != nil {
		return nil, fmt.Errorf("read profile: %w", err)
	}
	p := &Profile{}
	if reader != nil {
		p.shares = reader.shares()
	}
	if len(p.shares) == 0 {
		return nil, &ProfileError{Msg: "it has no kernel function: give what `perf report --stdio` or `perf script` prints, or folded stacks"}
	}
	return p, nil
}

// profileReader reads one form of profile, line by line; blank ones too.
type profileReader interface {
	line(string) error
	shares() map[string]Share
}

// readerFor tells the form by the first line that is not blank.
func readerFor(line string) profileReader {
	switch {
	case strings.HasPrefix(line, "#"), percent.MatchString(line):
		return &reportReader{}
	case sampleHead.MatchString(line):
		return &scriptReader{}
	}
	return &foldedReader{}
}

// Len is how many kernel functions the profile has.
func (p *Profile) Len() int { return len(p.shares) }

// Share returns a function's part of the samples; zero if it has none. The
// compiler's suffixes (.isra.0, .cold ...) are not looked at.
func (p *Profile) Share(name string) Share { return p.shares[stem(name)] }

// stem is a function's name without what the compiler appended.
func stem(name string) string {
	name, _, _ = strings.Cut(name, ".")
	return name
}

var (
	percent = regexp.MustCompile(`^\s*[0-9]+(\.[0-9]+)?%\s`)
	// sample is a line of the report's table: one or two shares, and the symbol
	// behind where it belongs to: [k] the kernel, [.] a program.
	sample = regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)%(?:\s+([0-9]+(?:\.[0-9]+)?)%)?\s+(?:.*\s)?\[([kguH.])\]\s+(\S+)`)
)

// reportReader reads `perf report --stdio`.
type reportReader struct {
	children bool // the first share is with what the function calls
	found    map[string]Share
}

func (r *reportReader) shares() map[string]Share { return r.found }

func (r *reportReader) line(line string) error {
	if strings.HasPrefix(line, "#") {
		words := strings.Fields(line)
		if len(words) > 2 && words[1] == "Children" && words[2] == "Self" {
			r.children = true
		}
		return nil
	}
	m := sample.FindStringSubmatch(line)
	if m == nil {
		if percent.MatchString(line) {
			return errors.New("no symbol after the share: let perf report sort by symbol")
		}
		return nil // part of a call chain
	}
	if m[3] != "k" {
		return nil
	}
	s := Share{}
	if err := errors.Join(share(m[1], &s.Self), share(m[2], &s.Total)); err != nil {
		return err
	}
	if r.children && m[2] != "" {
		s.Self, s.Total = s.Total, s.Self
	}
	if r.found == nil {
		r.found = map[string]Share{}
	}
	old := r.found[stem(m[4])] // the same function under several commands
	r.found[stem(m[4])] = Share{Self: min(1, old.Self+s.Self), Total: min(1, old.Total+s.Total)}
	return nil
}

func share(text string, into *float64) error {
	if text == "" {
		return nil
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v > 100 {
		return fmt.Errorf("%s%% is no share", text)
	}
	*into = v / 100
	return nil
}

// From which share of all samples a function counts as hot.
const (
	hotSelf  = 0.01
	hotTotal = 0.05
)

// Hot lists the functions that a live patch replaces and that are hot, the
// hottest first.
func (p *Profile) Hot(functions []bundle.Function) []bundle.Risk {
	type hot struct {
		bundle.Risk
		share Share
	}
	var all []hot
	for _, f := range functions {
		s := p.Share(f.Name)
		if s.Self < hotSelf && s.Total < hotTotal {
			continue
		}
		why := fmt.Sprintf("%.1f %% of the profile's samples are in it", s.Self*100)
		if s.Total > 0 {
			why += fmt.Sprintf(", %.1f %% with what it calls", s.Total*100)
		}
		why += ": every call goes through ftrace, and tasks may be in it whenever the transition looks"
		all = append(all, hot{bundle.Risk{Kind: bundle.RiskHot, Function: f.Object + ":" + f.Name, Why: why}, s})
	}
	slices.SortStableFunc(all, func(a, b hot) int {
		return cmp.Or(cmp.Compare(b.share.Self, a.share.Self), cmp.Compare(b.share.Total, a.share.Total))
	})
	out := make([]bundle.Risk, len(all))
	for i, h := range all {
		out[i] = h.Risk
	}
	return out
}
