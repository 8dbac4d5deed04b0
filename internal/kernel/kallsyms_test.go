package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// layout says how a made-up kernel writes its symbol table.
type layout struct {
	name       string
	addrsFirst bool // offsets and base before the names, as up to 6.3
	align      int
	seqs       bool // kallsyms_seqs_of_names between markers and tokens
	percpu     bool // absolute addresses are positive offsets
}

var layouts = []layout{
	{"5.10", true, 8, false, true},
	{"6.1 stable", true, 8, true, true},
	{"6.12", false, 4, false, true},
	{"6.15", false, 4, false, false},
}

const testBase = 0xffffffff81000000

// encodeKallsyms packs symbols as scripts/kallsyms.c does, with "token" as a
// token of several characters, between noise and a decoy keyboard map.
func encodeKallsyms(symbols []Symbol, l layout) []byte {
	const packed = "token"
	var table, index []byte
	for i := range 256 {
		index = binary.LittleEndian.AppendUint16(index, uint16(len(table)))
		switch {
		case i == 1:
			table = append(table, packed...)
		case i >= 0x20 && i < 0x7f:
			table = append(table, byte(i))
		default:
			table = append(table, fmt.Sprintf("\x01%d", i)...)
		}
		table = append(table, 0)
	}
	var names, markers, offsets []byte
	for i, s := range symbols {
		if i%markerStep == 0 {
			markers = binary.LittleEndian.AppendUint32(markers, uint32(len(names)))
		}
		text := string(s.Type) + strings.ReplaceAll(s.Name, packed, "\x01")
		if len(text) >= 0x80 {
			names = append(names, byte(len(text)&0x7f|0x80), byte(len(text)>>7))
		} else {
			names = append(names, byte(len(text)))
		}
		names = append(names, text...)
		offset := uint32(s.Addr - testBase)
		if l.percpu {
			if offset = uint32(s.Addr); s.Addr >= testBase {
				offset = uint32(testBase - 1 - s.Addr)
			}
		}
		offsets = binary.LittleEndian.AppendUint32(offsets, offset)
	}
	addrs := binary.LittleEndian.AppendUint64(pad(offsets, 8), testBase)
	out := []byte("noise 0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00 a decoy")
	out = pad(out, 8)
	if l.addrsFirst {
		out = append(out, addrs...)
	}
	out = pad(binary.LittleEndian.AppendUint32(out, uint32(len(symbols))), l.align)
	out = append(out, names...)
	out = append(pad(out, l.align), markers...)
	if l.seqs {
		out = append(pad(out, l.align), make([]byte, 3*len(symbols))...)
	}
	out = append(pad(out, l.align), table...)
	out = append(pad(out, l.align), index...)
	if !l.addrsFirst {
		out = append(pad(out, 8), addrs...)
	}
	return append(out, "more noise"...)
}

// drawSymbols makes a plausible table: sorted addresses, percpu ones first, names that repeat.
func drawSymbols(r *rand.Rand, n int, percpu bool) []Symbol {
	symbols := make([]Symbol, n)
	addr := uint64(testBase)
	for i := range symbols {
		s := Symbol{Addr: addr, Type: "tTdDbBrRVW"[r.Intn(10)], Name: fmt.Sprintf("sym_token_%d", r.Intn(n))}
		if percpu && i < n/20 {
			s.Addr = uint64(i * 8)
		} else {
			addr += uint64(r.Intn(4) * 16)
		}
		if i == n/2 {
			s.Name = strings.Repeat("long", 80)
		}
		symbols[i] = s
	}
	return symbols
}

func TestParseKallsyms(t *testing.T) {
	for _, l := range layouts {
		t.Run(l.name, func(t *testing.T) {
			want := drawSymbols(rand.New(rand.NewSource(1)), 5000, l.percpu)
			data := encodeKallsyms(want, l)
			k, err := ParseKallsyms(bytes.NewReader(testELF(elf.ET_EXEC, testSection{name: ".rodata", kind: elf.SHT_PROGBITS, data: data})))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, k.All()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseKallsymsProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := layouts[rapid.IntRange(0, len(layouts)-1).Draw(t, "layout")]
		want := drawSymbols(rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))), rapid.IntRange(minSymbols, 2000).Draw(t, "n"), l.percpu)
		got, err := findKallsyms(encodeKallsyms(want, l))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func TestParseKallsymsDamaged(t *testing.T) {
	good := encodeKallsyms(drawSymbols(rand.New(rand.NewSource(1)), 600, true), layouts[0])
	for name, data := range map[string][]byte{
		"empty":          nil,
		"no tokens":      bytes.ReplaceAll(good, []byte("0\x001\x002"), []byte("0 1 2 ")),
		"a token longer": bytes.Replace(good, []byte("\x00token\x00"), []byte("\x00tokenx\x00"), 1),
		"base too low":   bytes.Replace(good, binary.LittleEndian.AppendUint64(nil, testBase), make([]byte, 8), 1),
		"cut":            good[:len(good)/2],
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseKallsyms(bytes.NewReader(testELF(elf.ET_EXEC, testSection{name: ".rodata", kind: elf.SHT_PROGBITS, data: data})))
			if !errors.Is(err, ErrNoKallsyms) {
				t.Errorf("error %v, want ErrNoKallsyms", err)
			}
		})
	}
}

func TestSympos(t *testing.T) {
	k := NewKallsyms([]Symbol{{16, 't', "twice"}, {32, 'T', "once"}, {32, 'd', "twice"}, {48, 't', "other"}, {64, 'W', "twice"}})
	for _, tc := range []struct {
		name string
		addr uint64
		want int
		err  error
	}{
		{"once", 32, 0, nil}, {"twice", 16, 1, nil}, {"twice", 32, 2, nil}, {"twice", 64, 3, nil},
		{"none", 16, 0, ErrNoSymbol}, {"once", 16, 0, ErrNoSymbol},
	} {
		got, err := k.Sympos(tc.name, tc.addr)
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("Sympos(%s, %d) = %d, %v; want %d, %v", tc.name, tc.addr, got, err, tc.want, tc.err)
		}
	}
	want := []Symbol{{16, 't', "twice"}, {32, 'd', "twice"}, {64, 'W', "twice"}}
	if d := cmp.Diff(want, k.Lookup("twice")); d != "" {
		t.Error(d)
	}
	if got := k.Lookup("none"); len(got) != 0 {
		t.Errorf("Lookup of a name that is not there gave %v", got)
	}
}

func FuzzKallsyms(f *testing.F) {
	for _, l := range layouts {
		f.Add(encodeKallsyms(drawSymbols(rand.New(rand.NewSource(1)), minSymbols, l.percpu), l))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		symbols, err := findKallsyms(data)
		if err != nil {
			return
		}
		for i, s := range symbols {
			if i > 0 && s.Addr < symbols[i-1].Addr {
				t.Fatalf("symbol %d is below the one before it", i)
			}
		}
	})
}
