package elfdiff

import (
	"regexp"
	"strings"
)

// baseName strips the numbers that a compiler appends to tell copies apart:
// foo.isra.0 and foo.isra.3 are foo.isra, count.17 is count.
func baseName(name string) string {
	if !strings.Contains(name, ".") {
		return stripUnique(name)
	}
	parts := strings.Split(name, ".")
	kept := parts[:1]
	for _, p := range parts[1:] {
		if !digits(p) {
			kept = append(kept, p)
		}
	}
	return stripUnique(strings.Join(kept, "."))
}

// numbered says that the compiler appended a number to the name.
func numbered(name string) bool { return baseName(name) != name }

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

var initcallName = regexp.MustCompile(`^__initcall__(.*?)__\d+_\d+_(.*)$`)

var btfName = regexp.MustCompile(`^(__BTF_ID__.*__)\d+$`)

// stripUnique removes the counter of __UNIQUE_ID() names (linux/compiler.h),
// counter and line of initcall names (linux/init.h) and of the places that the
// kernel's build fills with type numbers (linux/btf_ids.h).
func stripUnique(name string) string {
	switch {
	case strings.HasPrefix(name, "__UNIQUE_ID_"):
		return strings.TrimRight(name, "0123456789")
	case strings.HasPrefix(name, "__BTF_ID__"):
		if m := btfName.FindStringSubmatch(name); m != nil {
			return m[1]
		}
	case strings.HasPrefix(name, "__initcall__"):
		if m := initcallName.FindStringSubmatch(name); m != nil {
			return "__initcall__" + m[1] + "_" + m[2]
		}
	}
	return name
}

// parentName returns the function that a .cold part was split from.
func parentName(name string) (string, bool) {
	if i := strings.LastIndex(name, ".cold"); i > 0 {
		if rest := name[i+len(".cold"):]; rest == "" || rest[0] == '.' && digits(rest[1:]) {
			return name[:i], true
		}
	}
	return "", false
}

// copied says that a fresh copy of the datum serves the patched code as well as
// the running kernel's own: lock classes, once-only flags, rate limits, names
// of functions, tables of the compiler.
func copied(name, section string) bool {
	base, local := ownName(name)
	switch base {
	case "__key", "__warned", "__already_done", "__func__", "__FUNCTION__", "__PRETTY_FUNCTION__",
		"_rs", "CSWTCH", "_entry", "_entry_ptr", "descriptor", "__print_once", "__ret_warn_once", "___done",
		"__msg", "_key": // NL_SET_ERR_MSG(), regmap_init()
		return local
	}
	return strings.HasPrefix(base, "__UNIQUE_ID_ddebug") || sanitizer(section) || section == ".data.once" || section == "__dyndbg" || section == ".printk_index" ||
		strings.HasPrefix(name, ".L")
}

// ownName is a variable's name without what the compiler puts around that of a
// function's own: gcc writes count.17, clang f.count or f.count.17. local says
// that there was something.
func ownName(name string) (own string, local bool) {
	base := baseName(name)
	if i := strings.LastIndexByte(base, '.'); i > 0 {
		return stripUnique(base[i+1:]), true
	}
	return base, base != name && stripUnique(name) == name
}

// placeholder says that what the datum holds does not count in a comparison:
// it changes at run time, or holds a line number.
func placeholder(name, section string) bool {
	switch own, _ := ownName(name); own {
	case "descriptor", "_entry", "_entry_ptr":
		return true
	}
	return section == "__dyndbg" || section == ".printk_index"
}

// sanitizer says that the section holds what gcc's sanitizer of undefined
// behaviour (CONFIG_UBSAN) reports a place of the source by, or a type in it. It has
// no symbols: -fdata-sections gives each a section, numbered through the object.
func sanitizer(section string) bool {
	return sanitizerPlace(section) || strings.HasPrefix(section, ".data..Lubsan_type")
}

func sanitizerPlace(section string) bool { return strings.HasPrefix(section, ".data..Lubsan_data") }

// Kinds of sections, by what a change in them means.
type sectionKind byte

const (
	kindIgnored  sectionKind = iota // not part of the running code, or rebuilt
	kindCode                        // functions
	kindData                        // variables and constants
	kindStrings                     // string literals
	kindConsts                      // merged constants
	kindTable                       // entries that belong to functions
	kindSupport                     // code that entries refer to
	kindRuntime                     // places in functions that boot writes a variable's value to
	kindRegistry                    // collected by the linker, read at boot or module load
	kindAuthor                      // what afloat-patch.h says to the builder
)

func kindOf(s *Section) sectionKind {
	switch {
	case !s.Alloc(), strings.HasPrefix(s.Name, ".discard."), strings.HasPrefix(s.Name, ".note"),
		s.Name == ".eh_frame", s.Name == ".orc_unwind", s.Name == ".orc_header", s.Name == ".printk_index",
		// Functions that nothing in one link reaches by a pointer, which boot closes to
		// such calls. objtool sees a single object here and cannot tell: all stay open.
		s.Name == ".ibt_endbr_seal",
		s.Type != 1 && s.Type != 8: // SHT_PROGBITS, SHT_NOBITS
		return kindIgnored
	case strings.HasPrefix(s.Name, authorPrefix):
		return kindAuthor
	case s.Name == ".altinstr_replacement", s.Name == ".altinstr_aux", s.Name == ".fixup":
		return kindSupport
	case runtimeConstants(s.Name):
		return kindRuntime
	case isTable(s.Name):
		return kindTable
	case s.Code():
		return kindCode
	case s.Flags&0x20 != 0 && s.EntSize == 1: // SHF_STRINGS
		return kindStrings
	case s.Flags&0x10 != 0 && s.EntSize > 0 && s.EntSize <= 64: // SHF_MERGE
		return kindConsts
	case dataName(s.Name):
		return kindData
	}
	return kindRegistry
}

func dataName(name string) bool {
	for _, prefix := range []string{".data", ".bss", ".rodata", ".init.data", ".init.rodata", ".exit.data", ".ref.data", ".ref.rodata",
		".cpuinit.data", ".meminit", ".lbss", ".ldata", ".lrodata"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return name == "__dyndbg"
}

// discarded says that a section's content is gone after boot or module load.
func discarded(name string) bool {
	return strings.HasPrefix(name, ".init.") || strings.HasPrefix(name, ".exit.") || strings.HasPrefix(name, ".initcall") ||
		strings.HasPrefix(name, ".exitcall") || strings.HasPrefix(name, ".con_initcall") || strings.HasPrefix(name, ".meminit")
}
