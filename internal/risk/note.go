package risk

import (
	"fmt"
	"slices"
	"strings"

	"afloat/internal/bundle"
)

// named is how many names a note lists.
const named = 5

// Notes says what the code tells about replacing the functions, in their order.
func (c *Code) Notes(functions []bundle.Function) []bundle.Risk {
	stalls := c.stalls()
	var out []bundle.Risk
	for _, f := range functions {
		for _, i := range c.find(f) {
			if s, ok := stalls[i]; ok {
				kind := bundle.RiskStall
				if s.always {
					kind = bundle.RiskStuck
				}
				out = append(out, bundle.Risk{Kind: kind, Function: f.Object + ":" + f.Name, Why: s.why})
			}
			if why := c.untraced(i); why != "" {
				out = append(out, bundle.Risk{Kind: bundle.RiskUntraced, Function: f.Object + ":" + f.Name, Why: why})
			}
		}
	}
	return out
}

// find is the function that a live patch replaces, or each that it may be where
// several share the name and the position does not tell.
func (c *Code) find(f bundle.Function) []int32 {
	var all []int32
	for _, i := range c.byName[f.Name] {
		if c.functions[i].object == f.Object {
			all = append(all, i)
		}
	}
	if f.Sympos > 0 && f.Sympos <= len(all) {
		return all[f.Sympos-1 : f.Sympos]
	}
	return all
}

// untraced names the callers that ftrace cannot redirect: a fix that is theirs
// as well cannot reach them.
func (c *Code) untraced(i int32) string {
	var names []string
	for _, from := range c.functions[i].callers {
		if f := c.functions[from]; !f.entry && !f.boot {
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
