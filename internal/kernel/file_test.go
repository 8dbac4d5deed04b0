package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
)

const (
	bannerText = "Linux version 6.1.0-55-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, " +
		"GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-14)\n\x00"
	procBanner  = "%s version %s (debian-kernel@lists.debian.org) (gcc-12) %s\n\x00Linux version %s\n"
	earlyBanner = "Linux version 6.1.0-55-amd64 (a@b) (gcc-12 (Debian) 12.2.0, GNU ld 2.40) # SMP PREEMPT_DYNAMIC Debian\n\x00"
)

// note writes one ELF note.
func note(name string, kind uint32, desc []byte) []byte {
	n := append([]byte(name), 0)
	out := binary.LittleEndian.AppendUint32(nil, uint32(len(n)))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(desc)))
	out = binary.LittleEndian.AppendUint32(out, kind)
	return append(out, pad(append(pad(n, 4), desc...), 4)...)
}

func testVmlinux(rodata string, notes []byte) []byte {
	return testELF(elf.ET_EXEC,
		testSection{name: ".rodata", kind: elf.SHT_PROGBITS, data: []byte(rodata)},
		testSection{name: ".notes", kind: elf.SHT_NOTE, data: notes})
}

func TestReadID(t *testing.T) {
	notes := append(note("Xen", 6, []byte("linux")), note("GNU", 3, []byte{0x21, 0x0c, 0xfe})...)
	want := ID{Release: "6.1.0-55-amd64", Version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-14)", BuildID: "210cfe"}
	for name, rodata := range map[string]string{
		"alone":                   bannerText,
		"after the proc banner":   procBanner + bannerText,
		"after an unnumbered one": earlyBanner + bannerText,
	} {
		id, err := ReadID(bytes.NewReader(testVmlinux(rodata, notes)))
		if err != nil || id != want {
			t.Errorf("%s: %+v, %v; want %+v", name, id, err, want)
		}
	}
	for name, file := range map[string][]byte{
		"no banner":        testVmlinux(procBanner, notes),
		"unnumbered alone": testVmlinux(earlyBanner, notes),
		"no notes":         testVmlinux(bannerText, nil),
		"other notes":      testVmlinux(bannerText, note("GNU", 1, []byte("x"))),
	} {
		if id, err := ReadID(bytes.NewReader(file)); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s: %+v, %v; want ErrNoIdentity", name, id, err)
		}
	}
	if _, err := ReadID(strings.NewReader("not ELF")); err == nil {
		t.Error("a file that is not ELF has an identity")
	}
}

func TestParseSymvers(t *testing.T) {
	got, err := ParseSymvers(strings.NewReader("0xf5b4a948\text4_x\tfs/ext4/ext4-y\tEXPORT_SYMBOL_GPL\tNS\n0x00000001\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x2\told\tvmlinux\tEXPORT_SYMBOL\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Symvers{
		"ext4_x": {Name: "ext4_x", CRC: 0xf5b4a948, Owner: "ext4_y", GPL: true, Namespace: "NS"},
		"printk": {Name: "printk", CRC: 1, Owner: "vmlinux"},
		"old":    {Name: "old", CRC: 2, Owner: "vmlinux"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, text := range map[string]string{
		"line 1: want 4 or 5 columns": "x\n",
		`line 2: CRC "12" is not`:     "0x1\ta\tvmlinux\tEXPORT_SYMBOL\n12\tb\tvmlinux\tEXPORT_SYMBOL\n",
		`line 1: kind "OTHER"`:        "0x1\ta\tvmlinux\tOTHER\n",
		"line 2: a is exported by":    "0x1\ta\tvmlinux\tEXPORT_SYMBOL\n0x1\ta\tvmlinux\tEXPORT_SYMBOL\n",
	} {
		if _, err := ParseSymvers(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error %v, want one with %q", err, name)
		}
	}
}

func TestModuleName(t *testing.T) {
	for path, want := range map[string]string{
		"fs/ext4/ext4": "ext4", "kernel/net/virtio-net.ko.xz": "virtio_net", "ext4.ko": "ext4", "vmlinux": "vmlinux", "a/b-c.o": "b_c",
	} {
		if got := ModuleName(path); got != want {
			t.Errorf("ModuleName(%s) = %s, want %s", path, got, want)
		}
	}
}

// testModule writes a module with the given .modinfo and the symbols main and twice (two of them).
func testModule(modinfo string) []byte {
	names := []byte("\x00main\x00twice\x00__ksymtab_out\x00printk\x00")
	var symbols bytes.Buffer
	for _, s := range []elf.Sym64{
		{}, {Name: 1, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Value: 16, Size: 8},
		{Name: 6, Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_FUNC), Shndx: 1, Value: 32, Size: 8},
		{Name: 6, Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_OBJECT), Shndx: 1, Value: 48, Size: 8},
		{Name: 12, Info: elf.ST_INFO(elf.STB_LOCAL, elf.STT_NOTYPE), Shndx: 1},
		{Name: 26, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_NOTYPE)},
	} {
		binary.Write(&symbols, binary.LittleEndian, s)
	}
	return testELF(elf.ET_REL,
		testSection{name: ".text", kind: elf.SHT_PROGBITS, data: make([]byte, 64)},
		testSection{name: ".modinfo", kind: elf.SHT_PROGBITS, data: []byte(modinfo)},
		testSection{name: ".strtab", kind: elf.SHT_STRTAB, data: names},
		testSection{name: ".symtab", kind: elf.SHT_SYMTAB, data: symbols.Bytes(), link: 3, size: 24})
}

const testModinfo = "license=GPL\x00name=ext4\x00vermagic=6.1.0 SMP \x00depends=jbd2,crc16\x00intree=Y\x00retpoline=Y\x00"

func TestParseModule(t *testing.T) {
	m, err := ParseModule(bytes.NewReader(testModule(testModinfo)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "ext4" || m.Vermagic != "6.1.0 SMP " || !m.InTree || !m.Retpoline || strings.Join(m.Depends, " ") != "jbd2 crc16" {
		t.Errorf("read %+v", m)
	}
	if d := cmp.Diff([]string{"out"}, m.Exports); d != "" {
		t.Error(d)
	}
	var places []string
	for _, s := range m.Lookup("twice") {
		places = append(places, fmt.Sprintf("%s+%d", s.Section, s.Value))
	}
	if d := cmp.Diff([]string{".text+32", ".text+48"}, places); d != "" {
		t.Error(d)
	}
	if len(m.Lookup("printk")) != 0 {
		t.Error("an undefined symbol counts as the module's own")
	}
	for name, file := range map[string][]byte{
		"empty": nil, "text": []byte("no module at all"), "no name": testModule("license=GPL\x00"), "vmlinux": testVmlinux(bannerText, nil),
	} {
		if _, err := ParseModule(bytes.NewReader(file)); !errors.Is(err, ErrNoModule) {
			t.Errorf("%s: error %v, want ErrNoModule", name, err)
		}
	}
}

func TestModuleVersions(t *testing.T) {
	entry := make([]byte, 64)
	binary.LittleEndian.PutUint64(entry, 0xdeadbeef)
	copy(entry[8:], "printk")
	module := func(versions []byte) []byte {
		return testELF(elf.ET_REL,
			testSection{name: ".modinfo", kind: elf.SHT_PROGBITS, data: []byte(testModinfo)},
			testSection{name: "__versions", kind: elf.SHT_PROGBITS, data: versions},
			testSection{name: ".strtab", kind: elf.SHT_STRTAB, data: []byte{0}},
			testSection{name: ".symtab", kind: elf.SHT_SYMTAB, data: make([]byte, 24), link: 3, size: 24})
	}
	m, err := ParseModule(bytes.NewReader(module(entry)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]uint32{"printk": 0xdeadbeef}, m.Versions); d != "" {
		t.Error(d)
	}
	if _, err := ParseModule(bytes.NewReader(module(entry[:63]))); err == nil || !strings.Contains(err.Error(), "__versions") {
		t.Errorf("a cut entry: %v", err)
	}
}

func TestParseSizesWithoutBTF(t *testing.T) {
	if _, err := ParseSizes(bytes.NewReader(testVmlinux(bannerText, nil))); !errors.Is(err, ErrNoBTF) {
		t.Errorf("error %v, want ErrNoBTF", err)
	}
	file := testELF(elf.ET_EXEC, testSection{name: ".BTF", kind: elf.SHT_PROGBITS, data: []byte("rubbish")})
	if _, err := ParseSizes(bytes.NewReader(file)); err == nil {
		t.Error("rubbish read as BTF")
	}
}

func FuzzReadID(f *testing.F) {
	f.Add(testVmlinux(earlyBanner+bannerText, note("GNU", 3, []byte{1, 2, 3})))
	f.Fuzz(func(t *testing.T, file []byte) {
		if id, err := ReadID(bytes.NewReader(file)); err == nil && id.Validate() != nil {
			t.Errorf("incomplete identity %+v without an error", id)
		}
	})
}

func FuzzParseSymvers(f *testing.F) {
	f.Add("0xf5b4a948\text4_x\tfs/ext4/ext4-y\tEXPORT_SYMBOL_GPL\tNS\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSymvers(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, e := range s {
			if name == "" || name != e.Name {
				t.Errorf("entry %q is %+v", name, e)
			}
		}
	})
}

func FuzzParseModule(f *testing.F) {
	f.Add(testModule(testModinfo))
	f.Fuzz(func(t *testing.T, file []byte) {
		if m, err := ParseModule(bytes.NewReader(file)); err == nil && m.Name == "" {
			t.Error("a module without a name")
		}
	})
}

func FuzzReadBuildIDNote(f *testing.F) {
	f.Add(note("GNU", 3, []byte{1, 2, 3, 4}))
	f.Add(append(note("Linux", 0x100, []byte("6.1")), note("GNU", 3, bytes.Repeat([]byte{7}, 20))...))
	f.Fuzz(func(t *testing.T, notes []byte) {
		if id, ok := ParseBuildID(notes); ok && len(id) == 0 {
			t.Error("a build id of no bytes")
		}
		file := testELF(elf.ET_EXEC, testSection{name: ".notes", kind: elf.SHT_NOTE, data: notes})
		if id, _, err := ReadBuildIDNote(bytes.NewReader(file)); err == nil && len(id) == 0 {
			t.Error("a note of no bytes")
		}
	})
}

// kernelTypes is BTF with the structures that ParseSizes looks for.
func kernelTypes(tb testing.TB) []byte {
	tb.Helper()
	word := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	inner := &btf.Union{Size: 4, Members: []btf.Member{{Name: "a", Type: word}, {Name: "b", Type: word}}}
	entry := &btf.Struct{Name: "alt_instr", Size: 12, Members: []btf.Member{{Name: "instr", Type: word}, {Name: "repl", Type: word, Offset: 32}}}
	patch := &btf.Struct{Name: "klp_patch", Size: 16, Members: []btf.Member{
		{Name: "mod", Type: &btf.Pointer{Target: word}}, {Type: inner, Offset: 64}, {Name: "replace", Type: word, Offset: 96, BitfieldSize: 1}}}
	b, err := btf.NewBuilder([]btf.Type{entry, patch}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

func TestParseSizes(t *testing.T) {
	file := testELF(elf.ET_EXEC, testSection{name: ".BTF", kind: elf.SHT_PROGBITS, data: kernelTypes(t)})
	got, err := ParseSizes(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := Sizes{
		AltInstr: 12,
		KlpPatch: Layout{Size: 16, Offsets: map[string]int{"mod": 0, "a": 8, "b": 8, "replace": 12}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzParseSizes(f *testing.F) {
	f.Add(kernelTypes(f))
	f.Add([]byte("\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file := testELF(elf.ET_EXEC, testSection{name: ".BTF", kind: elf.SHT_PROGBITS, data: data})
		s, err := ParseSizes(bytes.NewReader(file))
		if err == nil && s.AltInstr < 0 {
			t.Errorf("size %d", s.AltInstr)
		}
	})
}
