package kernel

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// versionEntry is the size of struct modversion_info on 64-bit kernels
// (include/linux/module.h): an unsigned long and a name of 56 bytes.
const versionEntry = 64

// readVersions reads __versions: the symbols that a module takes from others,
// with the CRC of each one's type as the module was built with.
func readVersions(f *elf.File) (map[string]uint32, error) {
	s := f.Section("__versions")
	if s == nil {
		return nil, nil
	}
	data, err := sectionData(s)
	if err != nil {
		return nil, err
	}
	if len(data)%versionEntry != 0 {
		return nil, fmt.Errorf("section __versions: %d bytes are no whole number of entries", len(data))
	}
	out := make(map[string]uint32, len(data)/versionEntry)
	for ; len(data) > 0; data = data[versionEntry:] {
		name, _, _ := bytes.Cut(data[8:versionEntry], []byte{0})
		out[string(name)] = le32(data)
	}
	return out, nil
}
