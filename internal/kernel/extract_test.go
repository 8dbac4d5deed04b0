package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"math/rand"
	"os"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// plainELF is content that is hard on the x86 filter: mostly call opcodes and
// sign bytes. testdata/x86.xz was made from it by: xz --check=crc32 --x86 --lzma2=dict=1MiB
func plainELF() []byte {
	r := rand.New(rand.NewSource(42))
	out := []byte("\x7fELF")
	for len(out) < 20000 {
		switch r.Intn(4) {
		case 0:
			out = append(out, 0xe8+byte(r.Intn(2)))
		case 1:
			out = append(out, 0)
		case 2:
			out = append(out, 0xff)
		default:
			out = append(out, byte(r.Intn(256)))
		}
	}
	return out
}

// bzImage wraps a payload as the boot protocol says.
func bzImage(payload []byte) []byte {
	const setup = 4
	head := make([]byte, (setup+1)*512)
	head[0x1f1] = setup
	copy(head[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(head[0x248:], 16)
	binary.LittleEndian.PutUint32(head[0x24c:], uint32(len(payload)+4))
	out := append(head, make([]byte, 16)...)
	return append(append(out, payload...), 0xaa, 0xbb, 0xcc, 0xdd)
}

func packed(t testing.TB) map[string][]byte {
	t.Helper()
	plain := plainELF()
	xz, err := os.ReadFile("testdata/x86.xz")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{"xz": xz}
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	gz.Write(plain)
	gz.Close()
	out["gzip"] = bytes.Clone(b.Bytes())
	b.Reset()
	zs, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	zs.Write(plain)
	zs.Close()
	out["zstd"] = bytes.Clone(b.Bytes())
	b.Reset()
	l := lz4.NewWriter(&b)
	if err := l.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	l.Write(plain)
	l.Close()
	out["lz4"] = bytes.Clone(b.Bytes())
	return out
}

func TestExtractVmlinux(t *testing.T) {
	want := plainELF()
	for name, payload := range packed(t) {
		for form, image := range map[string][]byte{
			"bzImage": bzImage(payload),
			"search":  append(append(bytes.Repeat([]byte{0x90}, 1000), payload...), 1, 2, 3, 4),
		} {
			t.Run(name+" "+form, func(t *testing.T) {
				got, err := ExtractVmlinux(image)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%d bytes differ from the %d packed", len(got), len(want))
				}
			})
		}
	}
	if got, err := ExtractVmlinux(want); err != nil || !bytes.Equal(got, want) {
		t.Errorf("an ELF kernel is not returned as it is: %v", err)
	}
}

func TestExtractVmlinuxDamaged(t *testing.T) {
	for name, payload := range packed(t) {
		if name == "lz4" { // legacy frames carry no checksum
			continue
		}
		image := bzImage(payload)
		image[len(image)-len(payload)/2] ^= 0xff
		if _, err := ExtractVmlinux(image); !errors.Is(err, ErrNoVmlinux) {
			t.Errorf("%s: error %v, want ErrNoVmlinux", name, err)
		}
	}
	for name, image := range map[string][]byte{"empty": nil, "short": []byte("HdrS"), "zeros": make([]byte, 4096)} {
		if _, err := ExtractVmlinux(image); !errors.Is(err, ErrNoVmlinux) {
			t.Errorf("%s: error %v, want ErrNoVmlinux", name, err)
		}
	}
}

func TestDecompress(t *testing.T) {
	want := plainELF()
	for name, data := range packed(t) {
		if got, err := Decompress(data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := Decompress([]byte("plain")); err != nil || string(got) != "plain" {
		t.Errorf("plain content became %q, %v", got, err)
	}
}

func FuzzDecompress(f *testing.F) {
	for _, data := range packed(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, err := Decompress(data)
		if err != nil && out != nil || len(out) > maxVmlinux {
			t.Errorf("%d bytes, error %v", len(out), err)
		}
	})
}

func FuzzUnpackXZ(f *testing.F) {
	for _, data := range packed(f) {
		if bytes.HasPrefix(data, []byte(xzMagic)) {
			f.Add(data)
		}
	}
	stream, err := os.ReadFile("testdata/x86.xz")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stream)
	f.Fuzz(func(t *testing.T, data []byte) {
		if out, err := unpackXZ(data); err != nil && out != nil {
			t.Errorf("%d bytes and %v", len(out), err)
		}
	})
}

func FuzzExtractVmlinux(f *testing.F) {
	for _, payload := range packed(f) {
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, image []byte) {
		if out, err := ExtractVmlinux(image); err == nil && !isELF(out) {
			t.Error("extracted something that is not ELF")
		}
	})
}
