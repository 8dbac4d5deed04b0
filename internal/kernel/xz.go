package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The kernel's build compresses x86 images with the BCJ x86 filter before
// LZMA2, which the xz library does not know, so this file reads the .xz
// container itself (xz file format 1.1.0) and leaves only LZMA2 to the library.

const (
	xzMagic      = "\xfd7zXZ\x00"
	xzHeaderSize = 12
	filterX86    = 0x04
	filterLZMA2  = 0x21
	// maxXZDict bounds the memory that a stream may ask for; the kernel uses 32 MiB.
	maxXZDict = 1 << 28
)

var errXZ = errors.New("xz stream is damaged or of an unknown kind")

// xzBlock is what a block header says.
type xzBlock struct {
	x86  bool
	dict int
	data []byte // from the first LZMA2 chunk on
}

// unpackXZ unpacks the first stream of data, all blocks of it. What follows is ignored.
func unpackXZ(data []byte) ([]byte, error) {
	if len(data) < xzHeaderSize || !bytes.HasPrefix(data, []byte(xzMagic)) {
		return nil, errXZ
	}
	checkSize, err := xzCheckSize(data[7])
	if err != nil {
		return nil, err
	}
	var out []byte
	for rest := data[xzHeaderSize:]; ; {
		if len(rest) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if rest[0] == 0 { // the index: no further block
			return out, nil
		}
		plain, next, err := unpackXZBlock(rest, checkSize)
		if err != nil {
			return nil, err
		}
		if len(out)+len(plain) > maxVmlinux {
			return nil, fmt.Errorf("%w: larger than %d bytes", errXZ, maxVmlinux)
		}
		if out = append(out, plain...); len(plain) == len(out) {
			out = plain
		}
		rest = next
	}
}

func xzCheckSize(flags byte) (int, error) {
	switch flags {
	case 0:
		return 0, nil
	case 1: // CRC32, what the kernel's build uses
		return 4, nil
	case 4: // CRC64
		return 8, nil
	case 10: // SHA-256
		return 32, nil
	}
	return 0, fmt.Errorf("%w: check %d", errXZ, flags)
}

func unpackXZBlock(b []byte, checkSize int) (plain, rest []byte, err error) {
	block, err := parseXZBlock(b)
	if err != nil {
		return nil, nil, err
	}
	src := bytes.NewReader(block.data)
	r, err := lzma.Reader2Config{DictCap: block.dict}.NewReader2(src)
	if err != nil {
		return nil, nil, err
	}
	if plain, err = readBounded(r); err != nil {
		return nil, nil, err
	}
	if block.x86 {
		decodeX86(plain)
	}
	used := len(block.data) - src.Len()
	end := used + (4-used%4)%4
	if end+checkSize > len(block.data) {
		return nil, nil, io.ErrUnexpectedEOF
	}
	check := block.data[end : end+checkSize]
	if checkSize == 4 && binary.LittleEndian.Uint32(check) != crc32.ChecksumIEEE(plain) {
		return nil, nil, fmt.Errorf("%w: checksum differs", errXZ)
	}
	return plain, block.data[end+checkSize:], nil
}

func parseXZBlock(b []byte) (xzBlock, error) {
	size := (int(b[0]) + 1) * 4
	if size > len(b) || size < 8 {
		return xzBlock{}, io.ErrUnexpectedEOF
	}
	head, sum := b[:size-4], binary.LittleEndian.Uint32(b[size-4:])
	if crc32.ChecksumIEEE(head) != sum {
		return xzBlock{}, fmt.Errorf("%w: block header checksum differs", errXZ)
	}
	block, flags := xzBlock{data: b[size:]}, head[1]
	fields := bytes.NewReader(head[2:])
	for bit := byte(0x40); bit != 0; bit <<= 1 { // sizes, if present, are not needed
		if flags&bit != 0 {
			if _, err := binary.ReadUvarint(fields); err != nil {
				return xzBlock{}, fmt.Errorf("%w: %w", errXZ, err)
			}
		}
	}
	for range int(flags&3) + 1 {
		if err := block.addFilter(fields); err != nil {
			return xzBlock{}, err
		}
	}
	if block.dict == 0 {
		return xzBlock{}, fmt.Errorf("%w: no LZMA2 filter", errXZ)
	}
	return block, nil
}

func (block *xzBlock) addFilter(fields *bytes.Reader) error {
	id, err := binary.ReadUvarint(fields)
	if err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	size, err := binary.ReadUvarint(fields)
	if err != nil || size > uint64(fields.Len()) {
		return fmt.Errorf("%w: filter properties", errXZ)
	}
	props := make([]byte, size)
	if _, err := io.ReadFull(fields, props); err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	switch {
	case id == filterX86 && size == 0 && block.dict == 0:
		block.x86 = true
	case id == filterLZMA2 && size == 1 && block.dict == 0:
		block.dict, err = xzDict(props[0])
		return err
	default:
		return fmt.Errorf("%w: filter %#x", errXZ, id)
	}
	return nil
}

// xzDict decodes the LZMA2 dictionary size: two mantissa values per power of two, from 4 KiB.
func xzDict(bits byte) (int, error) {
	if bits > 40 {
		return 0, fmt.Errorf("%w: dictionary size %d", errXZ, bits)
	}
	size := (2 | int64(bits&1)) << (bits/2 + 11)
	if size > maxXZDict {
		return 0, fmt.Errorf("%w: dictionary of %d bytes is too large", errXZ, size)
	}
	return max(int(size), lzma.MinDictCap), nil
}

// decodeX86 undoes the BCJ x86 filter in place: the operands of CALL and JMP
// (E8, E9) were turned from relative to absolute, where the operand's top byte
// is 00 or FF and the bytes before it do not look like part of another operand.
//
// recent is a history of the last four positions: bit n set means that an
// opcode byte stood n+1 positions back and was not converted.
func decodeX86(b []byte) {
	const never = -5
	recent, last := uint32(0), never
	for at := 0; at+5 <= len(b); {
		if b[at]&0xfe != 0xe8 {
			at++
			continue
		}
		recent = ageHistory(recent, at-last)
		last = at
		if top := b[at+4]; signByte(top) && allowed(recent>>1) {
			operand := unfilter(binary.LittleEndian.Uint32(b[at+1:]), uint32(at+5), recent)
			operand &= 0x01ffffff
			if operand&0x01000000 != 0 {
				operand |= 0xff000000
			}
			binary.LittleEndian.PutUint32(b[at+1:], operand)
			at, recent = at+5, 0
			continue
		} else if signByte(top) {
			recent |= 0x10
		}
		recent |= 1
		at++
	}
}

func signByte(b byte) bool { return b == 0 || b == 0xff }

// ageHistory moves the history on by the given number of bytes.
func ageHistory(recent uint32, by int) uint32 {
	if by > 5 {
		return 0
	}
	for range by {
		recent = (recent & 0x77) << 1
	}
	return recent
}

// allowed tells the histories after which the encoder converts an operand:
// none, one, or two opcode bytes one of which is the third back.
func allowed(history uint32) bool {
	return history < 0x10 && (history&7 == 0 || history&7 == 1 || history&7 == 2 || history&7 == 4)
}

// unfilter returns the relative operand. With a history, the encoder avoided
// producing a sign byte where an earlier opcode would look for it, so the
// operand may have been complemented from that byte down.
func unfilter(operand, next, recent uint32) uint32 {
	if recent == 0 {
		return operand - next
	}
	shift := 24 - 8*historyByte(recent>>1)
	for {
		plain := operand - next
		if !signByte(byte(plain >> shift)) {
			return plain
		}
		operand = plain ^ (1<<(shift+8) - 1)
	}
}

// historyByte is the operand byte that the most distant opcode in the history takes for its top byte.
func historyByte(history uint32) uint32 {
	switch {
	case history&7 == 0:
		return 0
	case history&7 == 1:
		return 1
	case history&7 <= 3:
		return 2
	}
	return 3
}
