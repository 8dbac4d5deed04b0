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
