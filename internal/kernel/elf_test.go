package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// testSection is a section of a made-up ELF file.
type testSection struct {
	name string
	kind elf.SectionType
	addr uint64
	data []byte
	link uint32
	info uint32
	size uint64 // of an entry
	flag elf.SectionFlag
}

// testELF writes a 64-bit little-endian ELF file.
func testELF(kind elf.Type, sections ...testSection) []byte {
	names := []byte{0}
	var body bytes.Buffer
	headers := []elf.Section64{{}}
	sections = append(sections, testSection{name: ".shstrtab", kind: elf.SHT_STRTAB})
	for i, s := range sections {
		if i == len(sections)-1 {
			s.data = append(names, ".shstrtab\x00"...)
		}
		headers = append(headers, elf.Section64{
			Name: uint32(len(names)), Type: uint32(s.kind), Flags: uint64(s.flag), Addr: s.addr, Off: uint64(64 + body.Len()),
			Size: uint64(len(s.data)), Link: s.link, Info: s.info, Addralign: 1, Entsize: s.size,
		})
		names = append(append(names, s.name...), 0)
		body.Write(s.data)
		body.Write(make([]byte, -body.Len()&7))
	}
	head := elf.Header64{
		Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(64 + body.Len()),
		Ehsize: 64, Shentsize: 64, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1),
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, head)
	out.Write(body.Bytes())
	binary.Write(&out, binary.LittleEndian, headers)
	return out.Bytes()
}

func pad(b []byte, align int) []byte { return append(b, make([]byte, (align-len(b)%align)%align)...) }
