package elfdiff

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"afloat/internal/kernel"
)

func TestReadSaysWhatTheFileIs(t *testing.T) {
	object := compile(t, "int f(void) { return 1; }")
	arm := bytes.Clone(object)
	arm[18] = 183 // e_machine
	linked := bytes.Clone(object)
	linked[16] = 2 // e_type
	for why, file := range map[string][]byte{
		"it is empty":              {},
		"it is no ELF file":        []byte("int f(void);\n"),
		"it is an archive":         []byte("!<arch>\n"),
		"it is LLVM bitcode":       []byte("BC\xc0\xde\x35\x14\x00\x00"),
		"it is a damaged ELF file": object[:40],
		"it is for EM_AARCH64":     arm,
		"it is linked already":     linked,
	} {
		if _, err := Read(bytes.NewReader(file)); !errors.Is(err, ErrNoObject) || !strings.Contains(err.Error(), why) {
			t.Errorf("error %v, want one that says %q", err, why)
		}
	}
}

// A refusal names the line of a variable too, a function's own included.
func TestRefusalNamesLine(t *testing.T) {
	source := prelude + "\nint level = 3;\nint f(int a) {\n static int count = 5;\n return level + (count += a); }\n"
	first := strings.Count(prelude, "\n") + 2
	d := diff(t, source, strings.NewReplacer("= 3", "= 4", "= 5", "= 6").Replace(source))
	places := map[string]string{}
	for _, r := range d.Refusals {
		places[baseName(r.Symbol)] = r.Source
	}
	for name, line := range map[string]int{"level": first, "count": first + 2} {
		if want := "unit.c:" + string(rune('0'+line/10)) + string(rune('0'+line%10)); places[name] != want {
			t.Errorf("%s is refused at %q, want %s", name, places[name], want)
		}
	}
}

func TestSetEntrySize(t *testing.T) {
	var s kernel.Sizes
	if err := SetEntrySize(&s, ".altinstructions", 14); err != nil || s.AltInstr != 14 {
		t.Errorf("size %d, error %v", s.AltInstr, err)
	}
	for section, size := range map[string]int{".smp_locks": 4, "mystery": 8, "__bug_table": 3, "__ex_table": 99} {
		if err := SetEntrySize(&s, section, size); err == nil {
			t.Errorf("%s takes entries of %d bytes", section, size)
		}
	}
}

// Where neither a kernel nor the caller says how long entries are, relocations do.
func TestInferSizeOfTables(t *testing.T) {
	relocs := func(offsets ...uint64) (out []Reloc) {
		for _, o := range offsets {
			out = append(out, Reloc{Offset: o})
		}
		return out
	}
	for _, tt := range []struct {
		name, table string
		size        uint64
		relocs      []Reloc
		want        int // 0: refused
	}{
		{"three alternatives of 6.1", ".altinstructions", 36, relocs(0, 4, 12, 16, 24, 28), 12},
		{"three alternatives of 6.12", ".altinstructions", 42, relocs(0, 4, 14, 18, 28, 32), 14},
		{"three alternatives of 5.10", ".altinstructions", 39, relocs(0, 4, 13, 17, 26, 30), 13},
		{"exceptions with handlers, 5.10", "__ex_table", 24, relocs(0, 4, 8, 12, 16, 20), 12},
		{"bugs with a format", "__bug_table", 32, relocs(0, 4, 8, 16, 20, 24), 16},
		{"absolute keys", "__jump_table", 48, relocs(0, 8, 16, 24, 32, 40), 24},
		{"no pattern", "__bug_table", 36, relocs(0, 4, 12, 16, 20), 0},
		{"no relocations", "__bug_table", 24, nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var which table
			for _, x := range tables() {
				if x.name == tt.table {
					which = x
				}
			}
			got, err := inferSize(which, &Section{Name: tt.table, Size: tt.size, Relocs: tt.relocs})
			if got != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("%d, %v, want %d", got, err, tt.want)
			}
		})
	}
}
