package kernel

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
)

// openELF opens a little-endian 64-bit ELF file and turns a panic of the
// parser on hostile input into an error.
func openELF(r io.ReaderAt) (f *elf.File, err error) {
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, fmt.Errorf("open ELF: malformed: %v", p)
		}
	}()
	if f, err = elf.NewFile(r); err != nil {
		return nil, fmt.Errorf("open ELF: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("open ELF: %s %s, want 64-bit little endian", f.Class, f.Data)
	}
	return f, nil
}

// sectionData reads a section that has content in the file.
func sectionData(s *elf.Section) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS {
		return nil, fmt.Errorf("section %s has no content", s.Name)
	}
	if s.FileSize > maxVmlinux {
		return nil, fmt.Errorf("section %s: size %d", s.Name, s.FileSize)
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.Name, err)
	}
	return data, nil
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
