package elfdiff

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// authorHeader is afloat-patch.h with stand-ins for what it takes from the kernel's headers.
func authorHeader(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../kbuild/afloat-patch.h")
	if err != nil {
		t.Fatal(err)
	}
	header := strings.ReplaceAll(string(text), "#include <linux/", "// ")
	return prelude + `typedef unsigned int gfp_t;
struct klp_object; struct klp_patch; struct klp_state { unsigned long id; };
extern struct klp_state *klp_get_state(struct klp_patch *, unsigned long);
extern void *klp_shadow_get(void *, unsigned long);
extern void *klp_shadow_get_or_alloc(void *, unsigned long, unsigned long, gfp_t, void *, void *);
extern void klp_shadow_free(void *, unsigned long, void *);
extern void klp_shadow_free_all(unsigned long, void *);
#define NULL ((void *)0)
` + header
}

// withHeader compares source with and without what stands between /*+ and +*/.
func withHeader(t *testing.T, source string) *Diff {
	t.Helper()
	header := authorHeader(t)
	patched := strings.NewReplacer("/*+", "", "+*/", "").Replace(source)
	return diff(t, header+"\n#line 1\n"+source, header+"\n#line 1\n"+patched)
}

func TestCallbacks(t *testing.T) {
	d := withHeader(t, `int level = 1; extern int klp_enable_patch(void *);
int f(int a) { return a /*+ * 5 +*/ + level; }
/*+ static noinline int helper(long a) { return printk("begin") + a; }
static int begin(struct klp_object *o) { level++; return helper((long)o); }
static void end(struct klp_object *o) { level--; }
AFLOAT_CALLBACKS(.post_unpatch = end);
AFLOAT_CALLBACKS(.pre_patch = begin, .post_unpatch = end); +*/
`)
	if len(d.Refusals) > 0 {
		t.Fatal(d.Refusals)
	}
	want := []Callbacks{
		{Line: 6, Functions: [CallbackKinds]Callback{PostUnpatch: {Name: "end"}}},
		{Line: 7, Functions: [CallbackKinds]Callback{PrePatch: {Name: "begin"}, PostUnpatch: {Name: "end"}}},
	}
	if diff := cmp.Diff(want, d.Callbacks, cmpopts.IgnoreFields(Callback{}, "Code")); diff != "" {
		t.Errorf("callbacks (-want +got):\n%s", diff)
	}
	for _, set := range d.Callbacks {
		for kind, f := range set.Functions {
			if f.Name != "" && (f.Code == nil || f.Code.Name != f.Name || !slices.Contains(d.Chunks, f.Code)) {
				t.Errorf("line %d: %s is not carried", set.Line, CallbackKind(kind))
			}
		}
	}
	if diff := cmp.Diff([]string{"f"}, functionNames(d.Changed)); diff != "" {
		t.Errorf("changed %s", diff)
	}
	if diff := cmp.Diff([]string{"begin", "end", "helper"}, functionNames(d.New)); diff != "" {
		t.Errorf("new %s", diff)
	}
	for _, c := range d.Chunks {
		if strings.HasPrefix(c.Section, authorPrefix) {
			t.Errorf("section %s is carried", c.Section)
		}
	}
}

func functionNames(list []Func) []string {
	var names []string
	for _, f := range list {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return names
}

func TestCallbackAlone(t *testing.T) {
	d := withHeader(t, `int level = 1;
/*+ static void now(struct klp_object *o) { level = 7; }
AFLOAT_CALLBACKS(.post_patch = now); +*/
`)
	if len(d.Refusals) > 0 || d.Empty() || len(d.Changed) > 0 {
		t.Errorf("refused %v, empty %t, changed %v", d.Refusals, d.Empty(), d.Changed)
	}
}

func TestStates(t *testing.T) {
	d := withHeader(t, `int f(int a) { return a /*+ + (afloat_state(0xaf02) != NULL) +*/; }
/*+ AFLOAT_STATE(0xaf02, 3);
AFLOAT_STATE(1, 0); +*/
`)
	if diff := cmp.Diff([]State{{Line: 2, ID: 0xaf02, Version: 3}, {Line: 3, ID: 1}}, d.States); diff != "" || len(d.Refusals) > 0 {
		t.Errorf("%v\n%s", d.Refusals, diff)
	}
	if !slices.ContainsFunc(d.Externals, func(e *External) bool { return e.Name == ThisPatch }) {
		t.Error("the patched function does not refer to its live patch")
	}
}

func TestShadow(t *testing.T) {
	d := withHeader(t, `struct thing { int a; };
/*+ AFLOAT_SHADOW(more, 0xaf02, long); +*/
long f(struct thing *t) { /*+ long *m = more_make(t, 1); if (m) return ++*m; more_free(t); more_free_all(); +*/ return t->a; }
`)
	if len(d.Refusals) > 0 || len(d.Changed) != 1 || len(d.New) > 0 {
		t.Errorf("refused %v, changed %v, new %v", d.Refusals, d.Changed, d.New)
	}
}

func TestWaivers(t *testing.T) {
	source := `int limit = 1 /*+ + 1 +*/; extern int first(void);
int f(int a) { return a /*+ * 5 +*/ + limit; }
int g(int a) { return a /*+ * 7 +*/ + limit; }
static int __attribute__((section(".init.text"), used)) boot(void) { return 3 /*+ + 1 +*/; }
static const int __attribute__((section("__param"), used)) param = 5 /*+ + 1 +*/;
`
	if d := withHeader(t, source); len(d.Refusals) != 3 {
		t.Errorf("without waivers refused %v", d.Refusals)
	}
	d := withHeader(t, source+`
/*+ AFLOAT_IGNORE_FUNCTION(boot, "boot is over");
AFLOAT_IGNORE_FUNCTION(g, "g is not used");
AFLOAT_IGNORE_DATA(limit, "set by hand");
AFLOAT_IGNORE_SECTION("__param", "none is given");
AFLOAT_IGNORE_FUNCTION(first, "is not here"); +*/
`)
	if len(d.Refusals) > 0 {
		t.Errorf("refused %v", d.Refusals)
	}
	if diff := cmp.Diff([]string{"f"}, functionNames(d.Changed)); diff != "" {
		t.Errorf("changed %s", diff)
	}
	want := []*Waiver{
		{Line: 7, Kind: IgnoreFunction, Of: "boot", Reason: "boot is over"}, {Line: 8, Kind: IgnoreFunction, Of: "g", Reason: "g is not used"},
		{Line: 9, Kind: IgnoreData, Of: "limit", Reason: "set by hand"}, {Line: 10, Kind: IgnoreSection, Of: "__param", Reason: "none is given"},
		{Line: 11, Kind: IgnoreFunction, Of: "first", Reason: "is not here"},
	}
	if diff := cmp.Diff(want, d.Waivers, cmpopts.IgnoreUnexported(Waiver{})); diff != "" {
		t.Errorf("waivers (-want +got):\n%s", diff)
	}
	if idle := d.IdleWaivers(); len(idle) != 1 || idle[0].Of != "first" {
		t.Errorf("idle %v", idle)
	}
}

// TestStatementsRefused writes what the header's macros would not let through.
func TestStatementsRefused(t *testing.T) {
	in := func(section string) string { return `__attribute__((used, section("` + section + `")))` }
	for name, source := range map[string]string{
		"no callback":       `/*+ AFLOAT_CALLBACKS(); +*/`,
		"init callback":     `/*+ static void __attribute__((section(".init.text"))) now(struct klp_object *o) { printk("x"); } AFLOAT_CALLBACKS(.post_patch = now); +*/`,
		"foreign callback":  `extern void now(struct klp_object *o); /*+ AFLOAT_CALLBACKS(.post_patch = now); +*/`,
		"number for a call": `/*+ AFLOAT_CALLBACKS(.post_patch = (void *)16); +*/`,
		"datum for a call":  `int level; /*+ AFLOAT_CALLBACKS(.post_patch = (void *)&level); +*/`,
		"short set":         `/*+ static const long set_3 ` + in(".afloat.callbacks") + ` = 0; +*/`,
		"empty set":         `/*+ static char set_3[32] ` + in(".afloat.callbacks") + ` = {1}; +*/`,
		"state 0":           `/*+ static const struct afloat_state s_3 ` + in(".afloat.states") + ` = {0, 1}; +*/`,
		"high state":        `/*+ static const struct afloat_state s_3 ` + in(".afloat.states") + ` = {1, 1UL << 32}; +*/`,
		"moving state":      `int level; /*+ static const struct afloat_state s_3 ` + in(".afloat.states") + ` = {(long)&level, 1}; +*/`,
		"no reason":         `/*+ static const char n_3[] ` + in(".afloat.notes") + ` = "ignore data\0limit\0 "; +*/`,
		"two words":         `/*+ static const char n_3[] ` + in(".afloat.notes") + ` = "ignore data\0limit"; +*/`,
		"unknown kind":      `/*+ static const char n_3[] ` + in(".afloat.notes") + ` = "force all\0limit\0why"; +*/`,
		"unknown section":   `/*+ static const char n_3[] ` + in(".afloat.wishes") + ` = "peace"; +*/`,
		"unnamed":           `/*+ asm(".pushsection .afloat.states, \"a\"\n.quad 1, 2\n.popsection"); +*/`,
	} {
		t.Run(name, func(t *testing.T) {
			d := withHeader(t, source+"\nint f(int a) { return a /*+ * 5 +*/; }\n")
			if len(d.Refusals) != 1 || d.Refusals[0].Class != ClassAuthor || d.Refusals[0].Hint == "" {
				t.Errorf("refused %v", d.Refusals)
			}
		})
	}
}
