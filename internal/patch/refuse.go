package patch

import (
	"fmt"
	"path"
	"strings"
)

// Refusal says why a touched file cannot be live patched, for people to act on.
type Refusal struct {
	Path string `json:"path"`
	Why  string `json:"why"`
	Hint string `json:"hint"`
}

func (r Refusal) String() string { return fmt.Sprintf("cannot live patch %s: %s", r.Path, r.Why) }

// Sources sorts the touched files into C sources to compile, headers, files
// that have no effect on the running kernel, and refusals, without a compiler.
type Sources struct {
	Compile  []string
	Headers  []string
	Ignored  []string
	Refusals []Refusal
}

const rebootHint = "fix it with a new kernel and a reboot"

// Sort sorts the result's files.
func (r *Result) Sort() Sources {
	var s Sources
	for _, p := range r.Paths() {
		why, hint := refuse(p)
		switch {
		case ignored(p):
			s.Ignored = append(s.Ignored, p)
		case why != "":
			s.Refusals = append(s.Refusals, Refusal{Path: p, Why: why, Hint: hint})
		case r.Files[p] == nil:
			s.Refusals = append(s.Refusals, Refusal{p, "the patch deletes the file", "leave the file in place; change what calls it"})
		case strings.HasSuffix(p, ".h"):
			s.Headers = append(s.Headers, p)
		case r.New[p]:
			s.Refusals = append(s.Refusals, Refusal{p, "the patch adds a source file, which the kernel's build does not know",
				"put the new functions into a file that the patch changes"})
		default:
			s.Compile = append(s.Compile, p)
		}
	}
	return s
}

// ignored files are no part of the kernel that runs.
func ignored(p string) bool {
	for _, dir := range []string{"Documentation/", "LICENSES/", "samples/", "tools/testing/", "tools/perf/", "debian/"} {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	switch path.Base(p) {
	case "MAINTAINERS", "CREDITS", ".gitignore", ".mailmap", "README", "COPYING":
		return true
	}
	return strings.HasSuffix(p, ".rst") || strings.HasSuffix(p, ".txt")
}

// refuse names what no live patch can replace, by path; "" if nothing speaks against it.
func refuse(p string) (why, hint string) {
	for _, place := range []struct{ prefix, why string }{
		{"arch/x86/entry/vdso/", "the vdso runs in user space and is mapped into every process already"},
		{"arch/x86/realmode/", "real-mode code runs only while a processor starts"},
		{"arch/x86/purgatory/", "the purgatory runs only between two kernels"},
		{"arch/x86/boot/", "boot code has run already"},
		{"arch/x86/lib/", "library code is built without entry hooks"},
		{"tools/", "it changes a build tool, not the kernel"},
		{"scripts/", "it changes how the kernel is built"},
		{"usr/", "the built-in initramfs has been used already"},
		{"certs/", "built-in certificates are data that exists already"},
	} {
		// tools/lib/bpf/relo_core.c is the one tool source that the kernel is built from as well.
		if strings.HasPrefix(p, place.prefix) && p != "tools/lib/bpf/relo_core.c" {
			return place.why, rebootHint
		}
	}
	base := path.Base(p)
	switch {
	case path.Dir(p) == "lib" && strings.HasSuffix(p, ".c"):
		return "library code in lib/ is built without entry hooks", "change the functions that call it instead"
	case strings.HasSuffix(p, ".S"), strings.HasSuffix(p, ".s"):
		return "assembly has no entry hooks", rebootHint
	case strings.HasSuffix(p, ".lds"), strings.HasSuffix(p, ".lds.h"):
		return "it changes how the kernel is linked", rebootHint
	case strings.HasPrefix(base, "asm-offsets"), p == "kernel/bounds.c":
		return "it changes constants that assembly is built with", rebootHint
	case base == "Makefile", base == "Kbuild", strings.HasPrefix(base, "Kconfig"), strings.HasPrefix(base, "Makefile."):
		return "it changes what the kernel is built from", "leave it out of the live patch if the C code does not need it"
	case !strings.HasSuffix(p, ".c") && !strings.HasSuffix(p, ".h"):
		return "it is neither C source nor a header", rebootHint
	}
	return "", ""
}
