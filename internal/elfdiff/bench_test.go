package elfdiff

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// BenchmarkCompare reads and compares a pair of objects. AFLOAT_BENCH_OBJECTS
// names a real pair, "ORIG.o PATCHED.o"; the default is a small one.
func BenchmarkCompare(b *testing.B) {
	orig, patched := benchPair(b)
	b.SetBytes(int64(len(orig) + len(patched)))
	for b.Loop() {
		o, err := Read(bytes.NewReader(orig))
		if err != nil {
			b.Fatal(err)
		}
		p, err := Read(bytes.NewReader(patched))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Compare(o, p, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func benchPair(b *testing.B) (orig, patched []byte) {
	b.Helper()
	paths := strings.Fields(os.Getenv("AFLOAT_BENCH_OBJECTS"))
	if len(paths) != 2 {
		return compile(b, fuzzSource), compile(b, fuzzSource+"int g(int a) { return f(a) * 5; }")
	}
	var out [2][]byte
	for i, path := range paths {
		var err error
		if out[i], err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	return out[0], out[1]
}
