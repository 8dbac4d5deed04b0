package risk

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// stackCounts counts how often each function is in a sampled stack, and at its end.
type stackCounts struct {
	total  float64
	counts map[string]*stackCount
	marked bool // frames say whether they are the kernel's
}

type stackCount struct {
	self, total float64
	kernel      bool // a frame of that name is the kernel's
}

type frame struct {
	name   string
	kernel bool
}

// add counts a stack, the outermost frame first, that was seen count times.
func (s *stackCounts) add(stack []frame, count float64) {
	if s.counts == nil {
		s.counts = map[string]*stackCount{}
	}
	s.total += count
	seen := map[string]bool{}
	for i, f := range stack {
		name := stem(f.name)
		c := s.counts[name]
		if c == nil {
			c = &stackCount{}
			s.counts[name] = c
		}
		c.kernel = c.kernel || f.kernel
		if !seen[name] {
			seen[name] = true
			c.total += count
		}
		if i == len(stack)-1 {
			c.self += count
		}
	}
}

func (s *stackCounts) shares() map[string]Share {
	out := make(map[string]Share, len(s.counts))
	for name, c := range s.counts {
		if name != "" && c.kernel == s.marked && s.total > 0 {
			out[name] = Share{Self: c.self / s.total, Total: c.total / s.total}
		}
	}
	return out
}

// foldedReader reads folded stacks. stackcollapse-perf.pl --kernel marks the
// kernel's frames with _[k]; without it, every frame counts.
type foldedReader struct{ stackCounts }

func (r *foldedReader) line(line string) error {
	if line == "" {
		return nil
	}
	at := strings.LastIndexAny(line, " \t")
	if at < 0 {
		return errors.New("neither a line of perf report or perf script nor a folded stack (command;function;... count)")
	}
	count, err := strconv.ParseUint(line[at+1:], 10, 53)
	if err != nil {
		return fmt.Errorf("%q is no number of samples", line[at+1:])
	}
	names := strings.Split(strings.TrimSpace(line[:at]), ";")
	if len(names) > 1 {
		names = names[1:] // the command
	}
	stack := make([]frame, len(names))
	for i, name := range names {
		stack[i].name, stack[i].kernel = strings.CutSuffix(name, "_[k]")
		r.marked = r.marked || stack[i].kernel
	}
	r.add(stack, float64(count))
	return nil
}

var (
	// sampleHead begins a sample of perf script: command, thread, CPU, time, event.
	sampleHead = regexp.MustCompile(`^\S.*\s-?[0-9]+(?:/-?[0-9]+)?\s(?:.*\s)?[0-9]+\.[0-9]+:(?:\s|$)`)
	// sampleFrame is one frame: address, symbol with its offset, and what it belongs to.
	sampleFrame = regexp.MustCompile(`^\s*[0-9a-f]+\s+(\S.*?)(?:\+0x[0-9a-f]+)?\s+\((.*)\)$`)
)

// scriptReader reads what `perf script` prints: for each sample a line that
// begins it, its frames with the innermost first, and a blank line.
type scriptReader struct {
	stackCounts
	stack []frame
	open  bool // in a sample
}

func (r *scriptReader) line(line string) error {
	if line == "" {
		r.end()
		return nil
	}
	head := sampleHead.MatchString(line)
	if head {
		r.end()
		r.open = true
		// Without call chains, the one frame is behind the event.
		line = line[strings.LastIndex(line, ": ")+1:]
	}
	m := sampleFrame.FindStringSubmatch(line)
	if !head && (!r.open || m == nil) {
		return errors.New("neither a sample of perf script nor one of its frames")
	}
	if m != nil {
		r.stack = append(r.stack, frame{m[1], strings.HasPrefix(m[2], "[") && m[2] != "[unknown]" && m[2] != "[vdso]"})
	}
	return nil
}

// end counts the sample that has been read.
func (r *scriptReader) end() {
	if !r.open {
		return
	}
	slices.Reverse(r.stack)
	r.marked = true
	r.add(r.stack, 1)
	r.stack, r.open = r.stack[:0], false
}

func (r *scriptReader) shares() map[string]Share {
	r.end()
	return r.stackCounts.shares()
}
