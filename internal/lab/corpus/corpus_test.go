package corpus

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/elfdiff"
	"afloat/internal/patch"
)

// trees are two versions of a source tree.
func trees(t *testing.T) (before, after string) {
	t.Helper()
	before, after = t.TempDir(), t.TempDir()
	for path, text := range map[string]string{
		filepath.Join(before, "fs/a.c"): "int a;\n", filepath.Join(after, "fs/a.c"): "int a = 1;\n",
		filepath.Join(before, "fs/same.c"): "int b;\n", filepath.Join(after, "fs/same.c"): "int b;\n",
		filepath.Join(before, "fs/gone.c"): "int c;\n", filepath.Join(after, "fs/made.c"): "int d;\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return before, after
}

func TestDiffering(t *testing.T) {
	before, after := trees(t)
	got, err := differing(before, after, []string{"fs/a.c", "fs/gone.c", "fs/made.c", "fs/same.c"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"fs/a.c"}, got); d != "" {
		t.Error(d)
	}
}

func TestDiffApplies(t *testing.T) {
	before, after := trees(t)
	text, err := diff(t.Context(), before, after, "fs/a.c")
	if err != nil {
		t.Fatal(err)
	}
	p, err := patch.Parse("fs/a.c", text)
	if err != nil {
		t.Fatal(err)
	}
	read := func(path string) ([]byte, error) { return os.ReadFile(filepath.Join(before, path)) }
	applied, err := patch.Apply(read, p)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(applied.Files["fs/a.c"]); got != "int a = 1;\n" {
		t.Errorf("applied it is %q", got)
	}
	if _, err := diff(t.Context(), before, after, "fs/same.c"); err == nil {
		t.Error("a diff of equal files")
	}
	if _, err := diff(t.Context(), before, after, "fs/gone.c"); err == nil {
		t.Error("a diff of a file that is not there")
	}
}

func TestSample(t *testing.T) {
	files := strings.Fields("a b c d e f g h i j k l m n o p")
	small, large, all := sample(files, 4, 7), sample(files, 9, 7), sample(files, 0, 7)
	if d := cmp.Diff(small, large[:4]); d != "" {
		t.Errorf("a larger sample does not begin with the smaller one: %s", d)
	}
	if len(all) != len(files) || cmp.Equal(all, files) {
		t.Errorf("all files in the order %v", all)
	}
	if cmp.Equal(small, sample(files, 4, 8)) {
		t.Error("another seed takes the same files")
	}
}

func refusal(c elfdiff.Class) elfdiff.Refusal {
	return elfdiff.Refusal{Class: c, Symbol: "f", Why: "because | of"}
}

func report() *Report {
	loaded := &Load{OK: true, Patching: true}
	return &Report{Kernel: "debian:6.1.0-53-amd64", Before: "6.1.187-1", After: "6.1.190-1", Seed: 1, Differing: 974, Results: []Result{
		{File: "alone.c", Outcome: Alone, Detail: "error: x"},
		{File: "bare.c", Outcome: Hookless, Detail: "no hooks"},
		{File: "unchanged.c", Outcome: Unchanged},
		{File: "one.c", Outcome: Built, Load: loaded, BuildMS: 2000},
		{File: "two.c", Outcome: Built, Load: loaded, BuildMS: 3000},
		{File: "idle.c", Outcome: Built, Load: &Load{OK: true, Detail: "no such device\nat all"}, BuildMS: 9000},
		{File: "init.c", Outcome: Refused, Refusals: []elfdiff.Refusal{refusal(elfdiff.ClassInit), refusal(elfdiff.ClassData)}},
		{File: "datacode.c", Outcome: Refused, Code: true, Refusals: []elfdiff.Refusal{refusal(elfdiff.ClassData)}},
		{File: "hook.c", Outcome: Refused, Refusals: []elfdiff.Refusal{refusal(elfdiff.ClassInit), refusal(elfdiff.ClassNoHook)}},
	}}
}

func TestFigures(t *testing.T) {
	got := report().Figures()
	want := Figures{Files: 9, Alone: 1, Hookless: 1, Unchanged: 1, Built: 3, Loaded: 3, Patching: 2, Refused: 3, BootOnly: 1, Mixed: 1}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.BuiltPct() != 60 || got.CodePct() != 75 || got.AllPct() != 50 {
		t.Errorf("%v %%, %v %% and %v %% built, want 3 of 5, of 4 and of 6", got.BuiltPct(), got.CodePct(), got.AllPct())
	}
	text := got.Text()
	for _, line := range []string{"bench corpus_compiled 7 count\n", "bench corpus_built_pct 60.0 %\n", "bench corpus_built_code_pct 75.0 %\n", "bench corpus_built_with_hookless_pct 50.0 %\n", "bench corpus_errors 0 count\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("%q lacks %q", text, line)
		}
	}
	if pct := (Figures{}).BuiltPct(); pct != 0 {
		t.Errorf("%v %% of nothing", pct)
	}
}

func TestErrorsAreCounted(t *testing.T) {
	for name, r := range map[string]Result{
		"failed":                   {Outcome: Failed, Detail: "panic"},
		"not loaded":               {Outcome: Built, Load: &Load{Detail: "step 1 failed"}},
		"refused without a reason": {Outcome: Refused},
		"refused with no why":      {Outcome: Refused, Refusals: []elfdiff.Refusal{{Class: elfdiff.ClassData}}},
	} {
		if r.Error() == "" {
			t.Errorf("%s is no error", name)
		}
		if f := (&Report{Results: []Result{r}}).Figures(); f.Errors != 1 {
			t.Errorf("%s counts %d errors", name, f.Errors)
		}
	}
}

func TestMarkdown(t *testing.T) {
	page := report().Markdown(time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC))
	for _, want := range []string{
		"974 C files", "on 2026-11-21, took 9 of them", "| built | 3 |", "Built: 3 of the 5 files", "60.0 %",
		"median 3.0", "| data, init | 1 |", "| init.c | refused, boot only | init: `f` because \\| of", "| idle.c | no such device |",
		"| bare.c | refused, no entry hooks | no hooks |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "| one.c") {
		t.Error("the page lists a file that went well")
	}
}

func TestStoreGoesOn(t *testing.T) {
	s := store{t.TempDir()}
	if _, ok, err := s.get("fs/a.c"); ok || err != nil {
		t.Fatalf("an empty store: %v, %v", ok, err)
	}
	want := Result{File: "fs/a.c", Outcome: Built, SHA256: digest([]byte("module")), Targets: []string{"vmlinux"}}
	if err := s.put(want, []byte("module")); err != nil {
		t.Fatal(err)
	}
	got, ok, err := s.get("fs/a.c")
	if !ok || err != nil || !cmp.Equal(want, got) {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if module, err := s.module(got); err != nil || string(module) != "module" {
		t.Errorf("module %q, %v", module, err)
	}
	got.SHA256 = digest([]byte("another"))
	if _, err := s.module(got); err == nil {
		t.Error("a module that was not built is accepted")
	}
	if err := os.WriteFile(s.path("fs/a.c", ".json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.get("fs/a.c"); err == nil {
		t.Error("a broken result is accepted")
	}
}

func TestBootCodeIsListed(t *testing.T) {
	r := &Report{Results: []Result{
		{File: "a.c", Outcome: Built, NextBoot: []string{"a_init", "b_init"}},
		{File: "b.c", Outcome: Built},
	}}
	if f := r.Figures(); f.NextBoot != 1 || f.Built != 2 {
		t.Errorf("%d of %d built without boot code, want 1 of 2", f.NextBoot, f.Built)
	}
	if page := r.Markdown(time.Unix(0, 0)); !strings.Contains(page, "| a.c | `a_init`, `b_init` |") {
		t.Errorf("the page does not list it:\n%s", page)
	}
}

// A function counts as code of load and unload only if all that leads to it is.
func TestOnlyLoads(t *testing.T) {
	alloc := func(name string, code bool) *elfdiff.Section {
		s := &elfdiff.Section{Name: name, Flags: elf.SHF_ALLOC}
		if code {
			s.Flags |= elf.SHF_EXECINSTR
		}
		return s
	}
	text, exit, ops, unwind := alloc(".text", true), alloc(".exit.text", true), alloc(".data", false), alloc(".orc_unwind_ip", false)
	sym := func(name string, bind elf.SymBind) *elfdiff.Symbol {
		return &elfdiff.Symbol{Name: name, Type: elf.STT_FUNC, Bind: bind, Section: text}
	}
	leave, work, stored, local := sym("leave", elf.STB_GLOBAL), sym("work", elf.STB_GLOBAL), sym("stored", elf.STB_GLOBAL), sym("local", elf.STB_LOCAL)
	exit.Relocs = []elfdiff.Reloc{{Symbol: leave}, {Symbol: work}, {Symbol: local}}
	text.Relocs = []elfdiff.Reloc{{Symbol: work}}
	ops.Relocs = []elfdiff.Reloc{{Symbol: stored}}
	unwind.Relocs = []elfdiff.Reloc{{Symbol: leave}}
	module := &elfdiff.Object{Sections: []*elfdiff.Section{text, exit, ops, unwind}, Symbols: []*elfdiff.Symbol{leave, work, stored, local}}
	for name, want := range map[string]bool{"leave": true, "work": false, "stored": false, "local": false, "unknown": false} {
		if got := onlyLoads(module, name); got != want {
			t.Errorf("%s only runs at load and unload: %v", name, got)
		}
	}
}
