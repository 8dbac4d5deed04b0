package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"testing"
)

func TestModuleSympos(t *testing.T) {
	m := &Module{Symbols: []ModuleSymbol{
		{Name: "late", Section: ".init.text", Value: 4},
		{Name: "late", Section: ".text", Core: true, Value: 8},
		{Name: "once", Section: ".text", Core: true, Value: 16},
		{Name: "twice", Section: ".text", Core: true, Value: 24},
		{Name: "twice", Section: ""},
		{Name: "twice", Section: ".data", Core: true, Value: 24},
		{Name: "tail", Section: ".text", Core: true, Value: 32},
		{Name: "tail", Section: ".init.text", Value: 32},
	}}
	for _, tt := range []struct {
		name, section string
		value         uint64
		want          int
		refused       bool
	}{
		{"once", ".text", 16, 0, false},
		{"twice", ".text", 24, 1, false},
		{"twice", ".data", 24, 2, false},
		{"tail", ".text", 32, 1, false},
		{"late", ".text", 8, 0, true},      // first once the module has initialised, second before
		{"late", ".init.text", 4, 0, true}, // gone once the module has initialised
		{"once", ".text", 17, 0, true},
		{"none", ".text", 0, 0, true},
	} {
		got, err := m.Sympos(tt.name, tt.section, tt.value)
		if got != tt.want || errors.Is(err, ErrNoSymbol) != tt.refused {
			t.Errorf("Sympos(%s, %s, %d) = %d, %v; want %d, refused %t", tt.name, tt.section, tt.value, got, err, tt.want, tt.refused)
		}
	}
}

func TestReadBuildIDNote(t *testing.T) {
	id := bytes.Repeat([]byte{0xcd}, 20)
	// The first note's content looks like the id's, but is another note.
	notes := append(note("Xen", 6, id), note("GNU", 3, id)...)
	file := testELF(elf.ET_EXEC, testSection{name: ".notes", kind: elf.SHT_NOTE, addr: 0xffffffff82000000, data: notes, flag: elf.SHF_ALLOC})
	got, addr, err := ReadBuildIDNote(bytes.NewReader(file))
	if err != nil || !bytes.Equal(got, id) {
		t.Fatalf("read %x, %v", got, err)
	}
	if want := 0xffffffff82000000 + uint64(len(notes)-len(id)); addr != want {
		t.Errorf("at %#x, want %#x", addr, want)
	}
	for name, file := range map[string][]byte{
		"no notes":   testELF(elf.ET_EXEC),
		"not loaded": testELF(elf.ET_EXEC, testSection{name: ".notes", kind: elf.SHT_NOTE, data: notes}),
		"text":       []byte("no ELF"),
	} {
		if _, _, err := ReadBuildIDNote(bytes.NewReader(file)); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s: error %v, want ErrNoIdentity", name, err)
		}
	}
}
