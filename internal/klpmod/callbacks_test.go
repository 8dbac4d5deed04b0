package klpmod

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

// withCallbacks adds sets of callbacks to a part, one for each text: the
// letters of "pquv" stand for pre_patch, post_patch, pre_unpatch and
// post_unpatch. Each function is named by its set's number and its letter.
func withCallbacks(p Part, first int, sets ...string) Part {
	for i, letters := range sets {
		set := elfdiff.Callbacks{Line: 10 * (first + i)}
		for kind, letter := range "pquv" {
			if strings.ContainsRune(letters, letter) {
				c := codeChunk(fmt.Sprintf("%d%c", first+i, letter))
				p.Diff.Chunks = append(p.Diff.Chunks, c)
				set.Functions[kind] = elfdiff.Callback{Name: c.Name, Code: c}
			}
		}
		p.Diff.Callbacks = append(p.Diff.Callbacks, set)
	}
	return p
}

// runCallback lets the kernel call one callback of the n-th klp_object with
// object 7, and returns what was called and the result.
func runCallback(m *memory, k Kernel, n int, kind elfdiff.CallbackKind, results map[string]uint32) (said []string, result uint64, err error) {
	objs := binary.LittleEndian.Uint64(must(m.bytesAt(m.symbols["klp_patch"]+uint64(k.Sizes.KlpPatch.Offsets["objs"]), 8)))
	place := objs + uint64(n*k.Sizes.KlpObject.Size+k.Sizes.KlpObject.Offsets["callbacks"]+k.Sizes.KlpCallbacks.Offsets[kind.String()])
	at := binary.LittleEndian.Uint64(must(m.bytesAt(place, 8)))
	if at == 0 {
		return nil, 0, nil
	}
	p := &processor{m: m, rdi: 7, results: results}
	for generated := strings.HasPrefix(m.symbolAt(at), "klp_"); generated; generated = strings.HasPrefix(m.symbolAt(at), "klp_") {
		if at, err = p.run(at); err != nil {
			return p.said, 0, err
		}
	}
	if at != m.symbols["cleanup_module"]+4 {
		if err := p.call(at); err != nil {
			return p.said, 0, err
		}
	}
	if len(p.stack) > 0 {
		err = errors.New("the stack is not empty at the end")
	}
	return p.said, p.rax, err
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestCallbacks(t *testing.T) {
	tests := map[string]struct {
		sets    []string
		kind    elfdiff.CallbackKind
		results map[string]uint32
		want    []string
		result  uint64
	}{
		"none":                  {[]string{"p"}, elfdiff.PostPatch, nil, nil, 0},
		"one":                   {[]string{"pq"}, elfdiff.PostPatch, nil, []string{"0q(7)"}, 0},
		"three":                 {[]string{"q", "q", "v", "q"}, elfdiff.PostPatch, nil, []string{"0q(7)", "1q(7)", "3q(7)"}, 0},
		"undone in reverse":     {[]string{"v", "v", "v"}, elfdiff.PostUnpatch, nil, []string{"2v(7)", "1v(7)", "0v(7)"}, 0},
		"before, in reverse":    {[]string{"u", "u"}, elfdiff.PreUnpatch, nil, []string{"1u(7)", "0u(7)"}, 0},
		"one may refuse":        {[]string{"pv"}, elfdiff.PrePatch, map[string]uint32{"0p": 5}, []string{"0p(7)"}, 5},
		"all agree":             {[]string{"pv", "v", "pv"}, elfdiff.PrePatch, nil, []string{"0p(7)", "2p(7)"}, 0},
		"the first refuses":     {[]string{"pv", "pv"}, elfdiff.PrePatch, map[string]uint32{"0p": 5}, []string{"0p(7)"}, 5},
		"the last refuses":      {[]string{"pv", "v", "p", "pv"}, elfdiff.PrePatch, map[string]uint32{"3p": 5}, []string{"0p(7)", "2p(7)", "3p(7)", "1v(7)", "0v(7)"}, 5},
		"after one without pre": {[]string{"v", "p"}, elfdiff.PrePatch, map[string]uint32{"1p": 9}, []string{"1p(7)", "0v(7)"}, 9},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := identified(testKernel())
			spec := vmlinuxSpec(k, withCallbacks(part(codeChunk("victim")), 0, tt.sets[0]), withCallbacks(part(codeChunk("hidden")), 1, tt.sets[1:]...))
			ko, _, err := Link(spec)
			if err != nil {
				t.Fatal(err)
			}
			said, result, err := runCallback(load(t, ko, k), k, 0, tt.kind, tt.results)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, said); diff != "" || result != tt.result {
				t.Errorf("result %d, calls (-want +got):\n%s", result, diff)
			}
		})
	}
}

// TestPrePatchModel: whatever the sets, a refusal undoes exactly what was done.
func TestPrePatchModel(t *testing.T) {
	k := identified(testKernel())
	rapid.Check(t, func(t *rapid.T) {
		sets := rapid.SliceOfN(rapid.StringMatching(`p?v?u?`), 1, 6).Draw(t, "sets")
		refusing := rapid.IntRange(0, len(sets)).Draw(t, "refusing")
		var want, undo []string
		result := uint64(0)
		for i, s := range sets {
			if strings.Contains(s, "p") && result == 0 {
				want = append(want, fmt.Sprintf("%dp(7)", i))
				if i == refusing {
					result, want = 11, append(want, undo...)
				}
			}
			if strings.Contains(s, "v") {
				undo = append([]string{fmt.Sprintf("%dv(7)", i)}, undo...)
			}
		}
		ko, _, err := Link(vmlinuxSpec(k, withCallbacks(part(codeChunk("victim")), 0, sets...)))
		if err != nil {
			t.Fatalf("%v", err)
		}
		said, got, err := runCallback(load(t, ko, k), k, 0, elfdiff.PrePatch, map[string]uint32{fmt.Sprintf("%dp", refusing): 11})
		if err != nil || got != result || cmp.Diff(want, said) != "" {
			t.Fatalf("%v: result %d, want %d: %s", err, got, result, cmp.Diff(want, said))
		}
	})
}

// TestCallbackThenForget: the author's function runs while the module's places are still filled in.
func TestCallbackThenForget(t *testing.T) {
	k := identified(testKernel())
	spec := forgettingSpec(k)
	spec.Targets[1].Parts[0] = withCallbacks(spec.Targets[1].Parts[0], 0, "v")
	ko, stats, err := Link(spec)
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	said, _, err := runCallback(m, k, 1, elfdiff.PostUnpatch, nil)
	if err != nil || cmp.Diff([]string{"0v(7)"}, said) != "" {
		t.Errorf("called %v, %v", said, err)
	}
	if m.word(t, m.symbols["pointers"]+8) != 0 {
		t.Error("a pointer to the module is still there")
	}
	want := []Callback{{Object: "ext9", Kind: elfdiff.PostUnpatch, Function: "0v", Source: "ext9_fix.c:0"}}
	if diff := cmp.Diff(want, stats.Callbacks); diff != "" {
		t.Errorf("callbacks (-want +got):\n%s", diff)
	}
}

// TestRefusalThenForget: a module that a pre_patch refuses may be loaded
// again, on kernels that empty the places otherwise and on those that do not.
func TestRefusalThenForget(t *testing.T) {
	clears := identified(testKernel())
	clears.Kallsyms = kernel.NewKallsyms(append(clears.Kallsyms.All(), kernel.Symbol{Addr: image + 0x2000, Type: 'T', Name: "clear_relocate_add"}))
	for name, k := range map[string]Kernel{"older": identified(testKernel()), "newer": clears} {
		for _, refuses := range []uint32{0, 9} {
			spec := forgettingSpec(k)
			spec.Targets[1].Parts[0] = withCallbacks(spec.Targets[1].Parts[0], 0, "v", "p")
			ko, _, err := Link(spec)
			if err != nil {
				t.Fatal(err)
			}
			m := load(t, ko, k)
			said, result, err := runCallback(m, k, 1, elfdiff.PrePatch, map[string]uint32{"1p": refuses})
			if err != nil || result != uint64(refuses) || len(said) != 1 && refuses == 0 {
				t.Errorf("%s: called %v, result %d, %v", name, said, result, err)
			}
			if empty := m.word(t, m.symbols["pointers"]+8) == 0; empty != (refuses != 0) {
				t.Errorf("%s: result %d, and the places are empty: %t", name, refuses, empty)
			}
			if refuses != 0 {
				for _, again := range m.late {
					again() // fails on a place that is not empty
				}
			}
		}
	}
}

// TestCallbacksAlone: an object may have callbacks and nothing that is replaced.
func TestCallbacksAlone(t *testing.T) {
	k := identified(testKernel())
	p := withCallbacks(Part{Source: "alone.c", Diff: &elfdiff.Diff{}}, 3, "q")
	spec := Spec{Name: "fix", Kernel: k, Targets: []Target{{Object: "vmlinux", Parts: []Part{part(codeChunk("victim"))}}, {Object: "ext9", Parts: []Part{p}}}}
	ko, _, err := Link(spec)
	if err != nil {
		t.Fatal(err)
	}
	said, _, err := runCallback(load(t, ko, k), k, 1, elfdiff.PostPatch, nil)
	if err != nil || cmp.Diff([]string{"3q(7)"}, said) != "" {
		t.Errorf("called %v, %v", said, err)
	}
	spec.Targets = spec.Targets[1:]
	if _, _, err := Link(spec); err != nil {
		t.Errorf("callbacks alone: %v", err)
	}
}

func TestStates(t *testing.T) {
	k := identified(testKernel())
	c := codeChunk("victim", external(elfdiff.ThisPatch, false, false))
	one, two := part(c), part(codeChunk("hidden"))
	one.Diff.States = []elfdiff.State{{Line: 3, ID: 0xaf02, Version: 4}}
	two.Diff.States = []elfdiff.State{{Line: 5, ID: 0xaf02, Version: 4}, {Line: 6, ID: 1}}
	ko, stats, err := Link(vmlinuxSpec(k, one, two))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	table := m.word(t, m.symbols["klp_patch"]+16)
	got := []uint64{m.word(t, table), m.word(t, table+8), m.word(t, table+24), m.word(t, table+32), m.word(t, table+48)}
	if diff := cmp.Diff([]uint64{0xaf02, 4, 1, 0, 0}, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if len(stats.States) != 2 || callee(t, m, "victim", 0) != m.symbols["klp_patch"] {
		t.Errorf("stats list %v, the code refers to %#x", stats.States, callee(t, m, "victim", 0))
	}
}

func TestAuthorRefused(t *testing.T) {
	stating := func(line int, s ...elfdiff.State) Part {
		p := part(codeChunk([]string{"victim", "hidden"}[line%2]))
		p.Diff.States = s
		return p
	}
	tests := map[string]struct {
		spoil func(*Kernel)
		parts []Part
		why   string
	}{
		"two versions": {nil, []Part{stating(0, elfdiff.State{ID: 1, Version: 1}), stating(1, elfdiff.State{ID: 1, Version: 2})}, "version 2 here and version 1"},
		"no states":    {func(k *Kernel) { k.Sizes.KlpState = kernel.Layout{} }, []Part{stating(0, elfdiff.State{ID: 1})}, "no states"},
		"no callbacks": {func(k *Kernel) { k.Sizes.KlpCallbacks = kernel.Layout{} }, []Part{withCallbacks(stating(0), 0, "q")}, "no callbacks"},
	}
	for name, tt := range tests {
		k := identified(testKernel())
		if tt.spoil != nil {
			tt.spoil(&k)
		}
		_, _, err := Link(vmlinuxSpec(k, tt.parts...))
		refused, ok := errors.AsType[*elfdiff.RefusedError](err)
		if !ok || len(refused.Refusals) != 1 || refused.Refusals[0].Class != elfdiff.ClassAuthor || !strings.Contains(refused.Refusals[0].Why, tt.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
