package elfdiff

import (
	"debug/elf"
	"testing"
)

func TestBaseName(t *testing.T) {
	for name, want := range map[string]string{
		"copy_process":               "copy_process",
		"__refcount_add.constprop.0": "__refcount_add.constprop",
		"foo.isra.0.part.12":         "foo.isra.part",
		"foo.part.0.cold":            "foo.part.cold",
		"count.17":                   "count",
		"__UNIQUE_ID_ddebug1234.56":  "__UNIQUE_ID_ddebug",
		"__initcall__kmod_proc__255_19_proc_cmdline_init5": "__initcall__kmod_proc_proc_cmdline_init5",
		"__BTF_ID__struct__fib6_info__10476715":            "__BTF_ID__struct__fib6_info__",
		"__BTF_ID__set8__sets_1":                           "__BTF_ID__set8__sets_1",
		"sha256":                                           "sha256",
	} {
		if got := baseName(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestParentName(t *testing.T) {
	for name, want := range map[string]string{
		"f.cold": "f", "f.part.0.cold": "f.part.0", "f.cold.12": "f", "f.colder": "", "f": "", ".cold": "",
	} {
		got, ok := parentName(name)
		if got != want || ok != (want != "") {
			t.Errorf("%s: %q %v, want %q", name, got, ok, want)
		}
	}
}

func TestCopied(t *testing.T) {
	for _, tt := range []struct {
		name, section string
		want          bool
	}{
		{"__already_done.4", ".data.once", true}, {"__key.259", ".bss.__key.259", true}, {"CSWTCH.1055", ".rodata.CSWTCH.1055", true},
		{"__func__.0", ".rodata.__func__.0", true}, {"__UNIQUE_ID_ddebug7.2", "__dyndbg", true},
		{"__msg.12", ".rodata.__msg.12", true}, {"_key.3", ".bss._key.3", true},
		{"__key", ".data.__key", false}, {"count.3", ".bss.count.3", false}, {"table", ".rodata.table", false},
	} {
		if got := copied(tt.name, tt.section); got != tt.want {
			t.Errorf("%s in %s: %v", tt.name, tt.section, got)
		}
	}
}

func TestSameButLine(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"at net/core/dev.c:10296", "at net/core/dev.c:10298", true},
		{"at net/core/dev.c:10296", "at net/core/sock.c:10298", false},
		{"timeout:10", "timeout:12", false},
		{"x", "x", true},
	} {
		if got := sameButLine([]byte(tt.a), []byte(tt.b)); got != tt.want {
			t.Errorf("%q, %q: %v", tt.a, tt.b, got)
		}
	}
}

func TestInferSize(t *testing.T) {
	at := func(offsets ...uint64) (out []Reloc) {
		for _, o := range offsets {
			out = append(out, Reloc{Offset: o, Type: elf.R_X86_64_PC32})
		}
		return out
	}
	for name, tt := range map[string]struct {
		usual  []int
		size   uint64
		relocs []Reloc
		want   int // 0: an error
	}{
		"bug table":          {[]int{12}, 36, at(0, 4, 12, 16, 24, 28), 12},
		"two fields, usual":  {[]int{8}, 16, at(0, 4, 8, 12), 8},
		"two fields, unsure": {nil, 16, at(0, 4, 8, 12), 4},
		"larger than usual":  {[]int{12}, 32, at(0, 4, 16, 20), 16},
		"no pattern":         {[]int{12}, 36, at(0, 4, 12, 30), 0},
		"no relocations":     {[]int{12}, 36, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := inferSize(table{usual: tt.usual}, &Section{Name: name, Size: tt.size, Relocs: tt.relocs})
			if got != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("%d, %v, want %d", got, err, tt.want)
			}
		})
	}
}
