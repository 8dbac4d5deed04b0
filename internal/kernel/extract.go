package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxVmlinux bounds a decompressed kernel or module, in bytes.
const maxVmlinux = 1 << 30

// ErrNoVmlinux says that a kernel image holds no ELF kernel that can be unpacked.
var ErrNoVmlinux = errors.New("no compressed ELF kernel found in the image")

// codec is one way to compress a kernel image or module.
type codec struct {
	name   string
	magic  []byte
	unpack func([]byte) ([]byte, error)
}

func codecs() []codec {
	return []codec{
		{"xz", []byte(xzMagic), unpackXZ},
		{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}, unpackZstd},
		{"lz4", []byte{0x02, 0x21, 0x4c, 0x18}, unpackLZ4},
		{"gzip", []byte{0x1f, 0x8b, 0x08}, unpackGzip},
	}
}

// ExtractVmlinux returns the ELF kernel inside a vmlinuz (bzImage), or vmlinuz
// itself if it is ELF already. The result still has every section header;
// only .symtab was stripped by the kernel's own build.
func ExtractVmlinux(vmlinuz []byte) ([]byte, error) {
	if isELF(vmlinuz) {
		return vmlinuz, nil
	}
	err := error(ErrNoVmlinux)
	if payload, ok := bzImagePayload(vmlinuz); ok {
		for _, c := range codecs() {
			if !bytes.HasPrefix(payload, c.magic) {
				continue
			}
			out, uerr := c.unpackELF(payload)
			if uerr == nil {
				return out, nil
			}
			err = fmt.Errorf("%w: %w", ErrNoVmlinux, uerr)
		}
	}
	if out, ok := searchVmlinux(vmlinuz); ok {
		return out, nil
	}
	return nil, fmt.Errorf("extract vmlinux: %w", err)
}

// bzImagePayload follows the boot protocol's payload_offset and payload_length
// (Documentation/x86/boot.rst, protocol 2.08 and later). The payload's last
// four bytes are its unpacked length, which is no part of the stream.
func bzImagePayload(image []byte) ([]byte, bool) {
	if len(image) < 0x250 || string(image[0x202:0x206]) != "HdrS" {
		return nil, false
	}
	setup := (uint64(image[0x1f1]) + 1) * 512
	start := setup + uint64(binary.LittleEndian.Uint32(image[0x248:]))
	length := uint64(binary.LittleEndian.Uint32(image[0x24c:]))
	if length < 4 || start+length > uint64(len(image)) {
		return nil, false
	}
	return image[start : start+length-4], true
}

// searchVmlinux tries every place that looks like a compressed stream.
func searchVmlinux(image []byte) ([]byte, bool) {
	for _, c := range codecs() {
		for at := 0; ; at++ {
			next := bytes.Index(image[at:], c.magic)
			if next < 0 {
				break
			}
			at += next
			if out, err := c.unpackELF(image[at:]); err == nil {
				return out, true
			}
		}
	}
	return nil, false
}

func (c codec) unpackELF(stream []byte) ([]byte, error) {
	out, err := c.unpack(stream)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", c.name, err)
	}
	if !isELF(out) {
		return nil, fmt.Errorf("unpack %s: content is not ELF", c.name)
	}
	return out, nil
}

// Decompress returns data unpacked if it is a compressed module (.ko.xz,
// .ko.zst, .ko.gz), else data itself.
func Decompress(data []byte) ([]byte, error) {
	for _, c := range codecs() {
		if bytes.HasPrefix(data, c.magic) {
			out, err := c.unpack(data)
			if err != nil {
				return nil, fmt.Errorf("unpack %s: %w", c.name, err)
			}
			return out, nil
		}
	}
	return data, nil
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }

func unpackGzip(stream []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil, err
	}
	r.Multistream(false)
	return readBounded(r)
}

func unpackZstd(stream []byte) ([]byte, error) {
	// The kernel's build packs with a window of up to 128 MiB (zstd --ultra -22).
	r, err := zstd.NewReader(bytes.NewReader(stream), zstd.WithDecoderMaxWindow(1<<28),
		zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxVmlinux))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readTolerant(r)
}

func unpackLZ4(stream []byte) ([]byte, error) {
	return readTolerant(lz4.NewReader(bytes.NewReader(stream)))
}

func readBounded(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxVmlinux+1))
	switch {
	case err != nil:
		return nil, err
	case n > maxVmlinux:
		return nil, fmt.Errorf("larger than %d bytes", maxVmlinux)
	}
	return b.Bytes(), nil
}

// readTolerant accepts rubbish after a whole stream, which legacy lz4 frames
// and images with a trailer have: what came before it decides.
func readTolerant(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxVmlinux+1))
	switch {
	case n > maxVmlinux:
		return nil, fmt.Errorf("larger than %d bytes", maxVmlinux)
	case err != nil && !isELF(b.Bytes()):
		return nil, err
	}
	return b.Bytes(), nil
}
