package proof

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kernel"
	"afloat/internal/kit/kittest"
)

// text is code at an address, for a scan of made-up functions.
func scanText(addr, target uint64, code ...byte) (callScan, bool) {
	s := callScan{target: target, callers: map[uint64]bool{}}
	ok := s.section(segment{addr: addr, size: uint64(len(code)), code: true}, code)
	return s, ok
}

func TestCallScan(t *testing.T) {
	const here, target = 0xffffffff81000000, 0xffffffff81000100
	for _, tt := range []struct {
		name  string
		code  []byte
		calls int
		ok    bool
	}{
		{"call", []byte{0x90, 0xe8, 0xfa, 0, 0, 0}, 1, true},
		{"jump", []byte{0xe9, 0xfb, 0, 0, 0}, 1, true},
		{"conditional jump", []byte{0x0f, 0x84, 0xfa, 0, 0, 0}, 1, true},
		{"call of another", []byte{0xe8, 0xfa, 0, 0, 0}, 0, true},
		{"lea", []byte{0x48, 0x8d, 0x3d, 0xf9, 0, 0, 0}, 0, false},
		{"mov of the address", []byte{0x48, 0xc7, 0xc7, 0x00, 0x01, 0x00, 0x81}, 0, false},
		{"a number that would fit", []byte{0xb8, 0xfb, 0, 0, 0}, 0, true},
	} {
		s, ok := scanText(here, target, tt.code...)
		if ok != tt.ok || len(s.callers) != tt.calls {
			t.Errorf("%s: %v, %d calls, want %v, %d", tt.name, ok, len(s.callers), tt.ok, tt.calls)
		}
	}
	for name, seg := range map[string]segment{"pointer": {}, "offset": {addr: target - 4}} {
		data := []byte{0, 1, 0, 0x81, 0xff, 0xff, 0xff, 0xff}
		if name == "offset" {
			data = []byte{4, 0, 0, 0, 0, 0, 0, 0}
		}
		s := callScan{target: target, callers: map[uint64]bool{}}
		if s.section(seg, data) {
			t.Errorf("a stored %s is not seen", name)
		}
		seg.unwind = true
		if got := s.section(seg, data); got != (name == "offset") {
			t.Errorf("%s in the unwind table: %v", name, got)
		}
	}
}

// TestCallers asks the shipped kernel about functions of which its source says who calls them.
func TestCallers(t *testing.T) {
	k := kittest.Open(t, "debian:6.1.0-55-amd64")
	f, err := os.Open(k.Vmlinux())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tables, err := k.Tables()
	if err != nil {
		t.Fatal(err)
	}
	img, err := Vmlinux(f, tables.Kallsyms)
	if err != nil {
		t.Fatal(err)
	}
	got, err := img.Callers("build_open_flags", tables.Kallsyms)
	if d := cmp.Diff([]string{"do_sys_openat2", "io_openat2"}, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	for name, want := range map[string]error{
		"ioread16be": ErrStored, // exported
		"seq_read":   ErrStored, // in many tables of operations
		"nobody":     ErrImage,
	} {
		if _, err := img.Callers(name, tables.Kallsyms); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	twice := kernel.NewKallsyms(slices.Concat(tables.Kallsyms.Lookup("vma_expand"), tables.Kallsyms.Lookup("vma_expand")))
	if _, err := img.Callers("vma_expand", twice); !errors.Is(err, ErrImage) {
		t.Errorf("a name of two functions: %v", err)
	}
}

func TestFreedAfterBoot(t *testing.T) {
	for name, want := range map[string]bool{".init.text": true, ".exit.data": true, ".ibt_endbr_seal": true, ".text": false, ".rodata": false, "__ex_table": false} {
		if freed(name) != want {
			t.Errorf("%s: freed is %t", name, !want)
		}
	}
}
