package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"testing"
)

func TestReadSealed(t *testing.T) {
	const at = 0xffffffff83c50000
	want := []uint64{0xffffffff81000100, 0xffffffff81000200, at + 0x40}
	var data []byte
	for i, to := range []uint64{want[1], want[2], want[0]} {
		data = binary.LittleEndian.AppendUint32(data, uint32(to-at-uint64(4*i)))
	}
	section := testSection{name: ".ibt_endbr_seal", kind: elf.SHT_PROGBITS, flag: elf.SHF_ALLOC, addr: at, data: data}
	got, err := ReadSealed(bytes.NewReader(testELF(elf.ET_EXEC, section)))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%#x, %v, want %#x", got, err, want)
	}
	if got, err := ReadSealed(bytes.NewReader(testELF(elf.ET_EXEC))); err != nil || got != nil {
		t.Errorf("a kernel without: %#x, %v", got, err)
	}
	section.data = data[:7]
	for name, file := range map[string][]byte{"half an entry": testELF(elf.ET_EXEC, section), "no ELF": []byte("no ELF")} {
		if got, err := ReadSealed(bytes.NewReader(file)); err == nil {
			t.Errorf("%s: %#x", name, got)
		}
	}
}

func FuzzReadSealed(f *testing.F) {
	f.Add(testELF(elf.ET_EXEC, testSection{name: ".ibt_endbr_seal", kind: elf.SHT_PROGBITS, flag: elf.SHF_ALLOC, addr: 0x1000, data: make([]byte, 12)}))
	f.Fuzz(func(t *testing.T, file []byte) {
		if got, err := ReadSealed(bytes.NewReader(file)); err == nil && !slices.IsSorted(got) {
			t.Errorf("not sorted: %#x", got)
		}
	})
}
