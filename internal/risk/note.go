package risk

import (
	"fmt"
	"slices"
	"strings"

	"afloat/internal/bundle"
)

// named is how many names a note lists.
const named = 5

// Notes is what an object's code tells about replacing its functions: by name,
// for each function of that name in the kernel's order. Functions without a note
// are left out, and Function is not filled in.
type Notes map[string][][]bundle.Risk

// NotesOf makes the notes of vmlinux or of a module.
func (c *Code) NotesOf(object string) Notes {
	stalls := c.stalls()
	out := Notes{}
	for name, all := range c.byName {
		var lists [][]bundle.Risk
		some := false
		for _, i := range all {
			if c.functions[i].object != object {
				continue
			}
			list := c.notes(i, stalls)
			lists, some = append(lists, list), some || len(list) > 0
		}
		if some {
			out[name] = lists
		}
	}
	return out
}

func (c *Code) notes(i int32, stalls stalls) []bundle.Risk {
	var out []bundle.Risk
	if s, ok := stalls[i]; ok {
		kind := bundle.RiskStall
		if s.always {
			kind = bundle.RiskStuck
		}
		out = append(out, bundle.Risk{Kind: kind, Why: s.why})
	}
	if why := c.untraced(i); why != "" {
		out = append(out, bundle.Risk{Kind: bundle.RiskUntraced, Why: why})
	}
	return out
}

// Of is what there is to say about a function that a live patch replaces; about
// each that it may be, where several share the name and the position does not tell.
func (n Notes) Of(f bundle.Function) []bundle.Risk {
	lists := n[f.Name]
	if f.Sympos > 0 && f.Sympos <= len(lists) {
		lists = lists[f.Sympos-1 : f.Sympos]
	}
	out := slices.Concat(lists...)
	for i := range out {
		out[i].Function = f.Object + ":" + f.Name
	}
	return out
}

// untraced names the callers that ftrace cannot redirect: a fix that is theirs
// as well cannot reach them.
func (c *Code) untraced(i int32) string {
	var names []string
	for _, from := range c.functions[i].callers {
		// What the compiler moved out of a function (.cold) is replaced with it.
		if f := c.functions[from]; !f.entry && !f.boot && !strings.Contains(f.name, ".cold") {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	slices.Sort(names)
	names = slices.Compact(names)
	more := ""
	if n := len(names) - named; n > 0 {
		names, more = names[:named], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s%s cannot be traced and %s it: their calls reach the patched function, but what the compiler inlined into them stays as it was",
		strings.Join(names, ", "), more, plural(len(names), "calls", "call"))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
