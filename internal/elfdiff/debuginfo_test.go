package elfdiff

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// The header of a real table passes; one that announces more entries than it
// has bytes, or whose numbers a relocation changes, does not.
func TestLineTableHeader(t *testing.T) {
	for _, flag := range []string{"-gdwarf-4", "-gdwarf-5"} {
		t.Run(flag, func(t *testing.T) {
			orig, _ := seeds(t, "-g", flag)
			f, err := elf.NewFile(bytes.NewReader(orig))
			if err != nil {
				t.Fatal(err)
			}
			l, err := readLineSection(f)
			if err != nil || len(l.data) == 0 || len(l.relocated) == 0 {
				t.Fatalf("%d bytes, %d relocations, %v", len(l.data), len(l.relocated), err)
			}
			if err := l.check(0); err != nil {
				t.Error(err)
			}
			if err := l.check(int64(len(l.data)) + 1); err == nil {
				t.Error("an offset behind the table passes")
			}
			l.relocated[4] = 4 // the version
			if err := l.check(0); err == nil {
				t.Error("a relocated version passes")
			}
		})
	}
}

func TestLineTableAnnouncesTooMuch(t *testing.T) {
	header := func(files ...byte) []byte {
		body := []byte{5, 0, 8, 0, 0, 0, 0, 0, 1, 1, 1, 0xfb, 14, 1} // version 5 up to an opcode base of 1
		body = append(body, 1, 1, 0x08, 1, 'd', 0)                   // one folder, a string
		body = append(body, 1, 1, 0x08)                              // files are strings
		body = append(body, files...)
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	for _, c := range []struct {
		name  string
		files []byte
		ok    bool
	}{
		{"one", []byte{1, 'f', 0}, true},
		{"none", []byte{0}, true},
		{"fewer than announced", []byte{2, 'f', 0}, false},
		{"2^62 files", []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40}, false},
		{"a string without end", []byte{1, 'f'}, false},
		{"no number", nil, false},
	} {
		if err := (lineSection{data: header(c.files...)}).check(0); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
