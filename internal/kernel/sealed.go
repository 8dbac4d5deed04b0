package kernel

import (
	"fmt"
	"io"
	"slices"
)

// ReadSealed returns the addresses of the functions of vmlinux that its boot closes
// to calls by a pointer, sorted: nothing in the kernel makes a pointer to them, so
// a processor with indirect branch tracking is not to accept one (.ibt_endbr_seal).
// There are none in a kernel built without (CONFIG_X86_KERNEL_IBT).
func ReadSealed(vmlinux io.ReaderAt) ([]uint64, error) {
	f, err := openELF(vmlinux)
	if err != nil {
		return nil, fmt.Errorf("read sealed functions: %w", err)
	}
	s := f.Section(".ibt_endbr_seal")
	if s == nil {
		return nil, nil
	}
	data, err := sectionData(s)
	if err != nil {
		return nil, fmt.Errorf("read sealed functions: %w", err)
	}
	const entry = 4 // a distance from its own place
	if len(data)%entry != 0 {
		return nil, fmt.Errorf("read sealed functions: section %s: %d bytes are not whole entries of %d", s.Name, len(data), entry)
	}
	out := make([]uint64, 0, len(data)/entry)
	for at := 0; at < len(data); at += entry {
		out = append(out, s.Addr+uint64(at)+uint64(int64(int32(le32(data[at:])))))
	}
	slices.Sort(out)
	return out, nil
}
