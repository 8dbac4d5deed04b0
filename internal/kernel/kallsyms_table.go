package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Bounds of what is accepted as a symbol table.
const (
	minSymbols = 256
	maxSymbols = 4 << 20
	// markerStep: kallsyms_markers holds the offset of every 256th name.
	markerStep = 256
	// kernelBase is the lowest link address of an x86-64 kernel image.
	kernelBase = 0xffffffff80000000
)

// tokens are the 256 strings that names are packed with.
type tokens [256][]byte

// names is the packed list of names and where it ends.
type names struct {
	count int
	start int // of num_syms
	data  []byte
	end   int // just after the last name
}

func findKallsyms(data []byte) ([]Symbol, error) {
	for at := 0; ; {
		table, tokenStart, tokenEnd, ok := findTokens(data, at)
		if !ok {
			return nil, fmt.Errorf("%w: no token table", ErrNoKallsyms)
		}
		at = tokenEnd
		for from := 0; ; {
			list, ok := findNames(data, from, tokenStart, table)
			if !ok {
				break
			}
			from = list.start + 4
			addrs, ok := findAddresses(data, list, tokenEnd)
			if ok {
				return unpackNames(list, table, addrs), nil
			}
		}
	}
}

// findTokens looks for kallsyms_token_table from data[from:] on: the digits are
// tokens of their own, and the index that follows repeats every token's offset.
// Keyboard maps hold the same run of digits, hence the check by the index.
func findTokens(data []byte, from int) (table tokens, start, end int, ok bool) {
	digits := []byte("0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00")
	for {
		at := bytes.Index(data[from:], digits)
		if at < 0 {
			return table, 0, 0, false
		}
		at += from
		from = at + 1
		start, ok := tokenTableStart(data, at)
		if !ok {
			continue
		}
		if table, end, ok := readTokens(data, start); ok {
			return table, start, end, true
		}
	}
}

// tokenTableStart walks back from token '0', which is number 0x30, to token 0.
func tokenTableStart(data []byte, digits int) (int, bool) {
	at := digits
	for range '0' {
		at-- // on the terminator of the token before
		if at <= 0 || data[at] != 0 {
			return 0, false
		}
		at = bytes.LastIndexByte(data[max(0, at-512):at], 0) + 1 + max(0, at-512)
	}
	return at, true
}

// readTokens reads 256 tokens at start and checks them against the index after them.
func readTokens(data []byte, start int) (table tokens, end int, ok bool) {
	var offsets [256]int
	at := start
	for i := range table {
		n := bytes.IndexByte(data[at:], 0)
		if n < 0 || n > 512 {
			return table, 0, false
		}
		table[i], offsets[i] = data[at:at+n], at-start
		at += n + 1
	}
	for _, align := range []int{8, 4, 2} {
		index := alignUp(at, align)
		if matchIndex(data, index, offsets) {
			return table, index + 2*len(offsets), true
		}
	}
	return table, 0, false
}

func matchIndex(data []byte, index int, offsets [256]int) bool {
	if index+2*len(offsets) > len(data) {
		return false
	}
	for i, want := range offsets {
		if int(binary.LittleEndian.Uint16(data[index+2*i:])) != want {
			return false
		}
	}
	return true
}

// findNames looks in data[from:before] for kallsyms_num_syms with its names and
// the markers that confirm them. The parts are aligned to 8 bytes, or to 4 in newer kernels.
func findNames(data []byte, from, before int, table tokens) (names, bool) {
	for at := alignUp(from, 4); at+8 < before; at += 4 {
		count := int(le32(data[at:]))
		if count < minSymbols || count > maxSymbols || !plausibleNames(data[at:before], table) {
			continue
		}
		if list, ok := walkNames(data, at, count, before); ok {
			return list, true
		}
	}
	return names{}, false
}

// plausibleNames is a cheap first look, so that few candidates are walked as a
// whole: the first names must begin with a symbol type.
func plausibleNames(data []byte, table tokens) bool {
	return plausibleAt(data[4:], table) || len(data) > 8 && plausibleAt(data[8:], table)
}

func plausibleAt(data []byte, table tokens) bool {
	for range 16 {
		name, rest, ok := nextName(data)
		if !ok {
			return false
		}
		first := table[name[0]]
		if len(first) == 0 || !isSymbolType(first[0]) {
			return false
		}
		data = rest
	}
	return true
}

func isSymbolType(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '?' }

// nextName splits off one packed name: a length (two bytes from 128 on, low
// seven bits first), then that many token numbers.
func nextName(data []byte) (name, rest []byte, ok bool) {
	if len(data) < 2 {
		return nil, nil, false
	}
	n, head := int(data[0]), 1
	if n >= 0x80 {
		n, head = n&0x7f|int(data[1])<<7, 2
	}
	if n == 0 || head+n > len(data) {
		return nil, nil, false
	}
	return data[head : head+n], data[head+n:], true
}

// walkNames reads count names after num_syms at start, and the markers after them.
func walkNames(data []byte, start, count, before int) (names, bool) {
	for _, align := range []int{8, 4} {
		first := alignUp(start+4, align)
		if first >= before {
			return names{}, false
		}
		rest, marks := data[first:before], make([]uint32, 0, count/markerStep+1)
		ok := true
		for i := 0; i < count && ok; i++ {
			if i%markerStep == 0 {
				marks = append(marks, uint32(before-first-len(rest)))
			}
			_, rest, ok = nextName(rest)
		}
		end := before - len(rest)
		if ok && matchMarkers(data, end, marks) {
			return names{count: count, start: start, data: data[first:end], end: end}, true
		}
	}
	return names{}, false
}

func matchMarkers(data []byte, end int, marks []uint32) bool {
	for _, align := range []int{8, 4} {
		at := alignUp(end, align)
		if at+4*len(marks) > len(data) {
			continue
		}
		ok := true
		for i := 0; i < len(marks) && ok; i++ {
			ok = le32(data[at+4*i:]) == marks[i]
		}
		if ok {
			return true
		}
	}
	return false
}

// findAddresses reads kallsyms_offsets and kallsyms_relative_base, which stand
// before num_syms (to 6.3) or after the token index (from 6.4 on). Which it is
// shows in the addresses: sorted, and none of them below the kernel's base
// except percpu and absolute ones.
func findAddresses(data []byte, list names, tokenEnd int) ([]uint64, bool) {
	size := 4 * list.count
	for _, align := range []int{8, 4} {
		base := list.start - 8
		for _, start := range []int{base - alignUp(size, align), alignDown(base-size, align)} {
			if addrs, ok := readAddresses(data, start, base, list.count); ok {
				return addrs, true
			}
		}
		start := alignUp(tokenEnd, align)
		if addrs, ok := readAddresses(data, start, alignUp(start+size, 8), list.count); ok {
			return addrs, true
		}
		if addrs, ok := readAddresses(data, start, alignUp(start+size, align), list.count); ok {
			return addrs, true
		}
	}
	return nil, false
}

// readAddresses decodes count offsets at start against the base stored at
// baseAt. With CONFIG_KALLSYMS_ABSOLUTE_PERCPU a value >= 0 is an absolute
// address and a negative one counts down from base-1; without, all are offsets from the base.
func readAddresses(data []byte, start, baseAt, count int) ([]uint64, bool) {
	if start < 0 || baseAt < 0 || start+4*count > len(data) || baseAt+8 > len(data) {
		return nil, false
	}
	base := le64(data[baseAt:])
	if base < kernelBase {
		return nil, false
	}
	offset := func(i int) int32 { return int32(le32(data[start+4*i:])) }
	percpu := func(i int) uint64 {
		if o := offset(i); o < 0 {
			return base - 1 - uint64(int64(o))
		}
		return uint64(offset(i))
	}
	plain := func(i int) uint64 { return base + uint64(uint32(offset(i))) }
	for _, decode := range []func(int) uint64{percpu, plain} {
		if addrs, ok := decodeAll(count, decode); ok {
			return addrs, true
		}
	}
	return nil, false
}

func decodeAll(count int, decode func(int) uint64) ([]uint64, bool) {
	addrs := make([]uint64, count)
	above := 0
	for i := range addrs {
		addrs[i] = decode(i)
		if i > 0 && addrs[i] < addrs[i-1] {
			return nil, false
		}
		if addrs[i] >= kernelBase {
			above++
		}
	}
	return addrs, above*2 > count
}

func unpackNames(list names, table tokens, addrs []uint64) []Symbol {
	out := make([]Symbol, 0, list.count)
	rest := list.data
	var name []byte
	for i := range list.count {
		var packed []byte
		packed, rest, _ = nextName(rest)
		name = name[:0]
		for _, t := range packed {
			name = append(name, table[t]...)
		}
		if len(name) == 0 {
			name = append(name, '?')
		}
		out = append(out, Symbol{Addr: addrs[i], Type: name[0], Name: string(name[1:])})
	}
	return out
}

func alignUp(n, align int) int   { return (n + align - 1) / align * align }
func alignDown(n, align int) int { return n &^ (align - 1) }
