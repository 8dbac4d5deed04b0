package elfdiff

import (
	"strings"
	"testing"
)

// A copy of a function that exists is proven like what is replaced.
func TestCompareCopyHasOriginal(t *testing.T) {
	source := prelude + `notrace static noinline int inner(int a) { return printk("a") + a; } int f(int a) { return inner(a) + 1; }`
	d := diff(t, source, strings.Replace(source, `"a"`, `"b"`, 1))
	if len(d.New) != 1 || d.New[0].Original == nil || d.New[0].Original.Name != "inner" {
		t.Errorf("new functions %+v, want a copy of inner", d.New)
	}
}

// A global function without a hook may be called from other objects: only who
// knows all of them may have its callers replaced.
func TestCompareUnhookedCallers(t *testing.T) {
	const source = prelude + `notrace noinline int inner(int a) { return printk("a") + a; } int f(int a) { return inner(a) + 1; }`
	patched := strings.Replace(source, `"a"`, `"b"`, 1)
	d := diff(t, source, patched)
	if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassNoHook || len(d.Unhooked) != 1 || d.Unhooked[0] != "inner" {
		t.Errorf("refused %v, unhooked %q, want inner", d.Refusals, d.Unhooked)
	}
	const other = prelude + `extern int inner(int); int g(int a) { return inner(a) * 3; } int h(int a) { return a * 5; }`
	for _, tt := range []struct {
		name, before, after string
		changed, fresh      []string
	}{
		{"its own object", source, patched, []string{"f"}, []string{"inner"}},
		{"another object", other, other, []string{"g"}, nil},
	} {
		d, err := Compare(read(t, compile(t, tt.before)), read(t, compile(t, tt.after)), Options{Unhooked: []string{"inner"}})
		if err != nil || len(d.Refusals) > 0 {
			t.Fatalf("%s: %v, refused %v", tt.name, err, d.Refusals)
		}
		sameNames(t, tt.name+", changed", names(d.Changed), tt.changed)
		sameNames(t, tt.name+", new", names(d.New), tt.fresh)
	}
}
