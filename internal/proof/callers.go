package proof

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"afloat/internal/kernel"
)

// ErrStored says that the address of a function is kept somewhere, so that not
// all that calls it can be told.
var ErrStored = errors.New("its address is stored")

// Callers lists the functions of the shipped vmlinux that call or jump to one of
// its functions, sorted. It looks at every byte, so it may list too many, never
// too few; only what is gone after boot is left out. Errors wrap ErrStored where
// code or data hold the address, ErrImage where the name is not unique.
func (img *Image) Callers(name string, k *kernel.Kallsyms) ([]string, error) {
	at := k.Lookup(name)
	if len(at) != 1 {
		return nil, fmt.Errorf("find callers of %s: %d functions have the name: %w", name, len(at), ErrImage)
	}
	scan := callScan{target: at[0].Addr, callers: map[uint64]bool{}}
	for _, seg := range img.segments {
		if seg.data == nil || seg.boot {
			continue
		}
		if seg.size > maxSegment {
			return nil, fmt.Errorf("find callers of %s: a section of %d bytes: %w", name, seg.size, ErrImage)
		}
		data, err := io.ReadAll(io.NewSectionReader(seg.data, 0, int64(seg.size))) // no more than there is
		if err == nil && uint64(len(data)) < seg.size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("find callers of %s: %w", name, err)
		}
		if !scan.section(seg, data) {
			return nil, fmt.Errorf("find callers of %s: %w", name, ErrStored)
		}
	}
	return scan.names(k), nil
}

// maxSegment bounds one section of a vmlinux, in bytes.
const maxSegment = 256 << 20

// ErrImage says that a shipped object is not as this package expects it.
var ErrImage = errors.New("the shipped object is not as expected")

type callScan struct {
	target  uint64
	callers map[uint64]bool // addresses of calls
}

// section looks for the target at every place of a section; false if its address is held there.
func (s *callScan) section(seg segment, data []byte) bool {
	for off := 0; off+4 <= len(data); off++ {
		v := binary.LittleEndian.Uint32(data[off:])
		here := seg.addr + uint64(off)
		relative := uint64(int64(int32(v)))
		switch {
		case seg.code && here+4+relative == s.target:
			if branchBefore(data, off) {
				s.callers[here] = true
			} else if leaBefore(data, off) {
				return false
			}
		case seg.code && relative == s.target:
			return false // mov $function, %reg
		case !seg.code && !seg.unwind && here+relative == s.target:
			return false // an entry of a table of offsets
		case !seg.code && off+8 <= len(data) && binary.LittleEndian.Uint64(data[off:]) == s.target:
			return false
		}
	}
	return true
}

// branchBefore says that the bytes before a displacement make it one of a call,
// a jump or a conditional jump.
func branchBefore(code []byte, off int) bool {
	return off > 0 && (code[off-1] == 0xe8 || code[off-1] == 0xe9) || off > 1 && code[off-1]&0xf0 == 0x80 && code[off-2] == 0x0f
}

// leaBefore says that the bytes before a displacement make it one of lea
// function(%rip), %reg. A small number beside the function may look like a
// displacement to it, so not every one that fits is.
func leaBefore(code []byte, off int) bool {
	return off > 1 && code[off-2] == 0x8d && code[off-1]&0xc7 == 0x05
}

// names are the functions that hold the calls; a part split from a function is the function.
func (s *callScan) names(k *kernel.Kallsyms) []string {
	all := slices.Clone(k.All())
	all = slices.DeleteFunc(all, func(x kernel.Symbol) bool { return !strings.ContainsRune("tTwW", rune(x.Type)) })
	slices.SortStableFunc(all, func(a, b kernel.Symbol) int { return cmp.Compare(a.Addr, b.Addr) })
	var out []string
	for addr := range s.callers {
		i, _ := slices.BinarySearchFunc(all, addr, func(x kernel.Symbol, addr uint64) int {
			if x.Addr <= addr {
				return -1
			}
			return 1
		})
		if i == 0 {
			out = append(out, fmt.Sprintf("%#x", addr))
			continue
		}
		name := all[i-1].Name
		if at := strings.Index(name, ".cold"); at > 0 {
			name = name[:at]
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
