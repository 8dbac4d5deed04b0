// Package kbuild compiles the kernel objects that a patch changes, before and
// after it, with the exact compiler and objtool commands of the kernel's own
// build, but without make: the commands of all objects are asked from make
// once per kit and kept in its cache.
//
// The kit's source tree is never written to. A patched tree is a folder of
// links to it in which only the changed files are real, so that every path a
// compiler sees, and with it __FILE__, is the same in both builds.
package kbuild

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Unit is one object file of the kernel's build and how to make it.
type Unit struct {
	Object string // fs/ext4/mballoc.o
	Source string // fs/ext4/mballoc.c
	Module string // module it is linked into, "" for vmlinux
	// Compile and Objtool are commands without what names the files; both run in the source tree.
	Compile []string
	Objtool []string // nil if objtool does not run on the single object
}

// Target names what the object is linked into: "vmlinux" or a module's name.
func (u Unit) Target() string {
	if u.Module == "" {
		return "vmlinux"
	}
	return u.Module
}

// Hooked says that the compiler is told to put an entry hook into the functions.
// The kernel builds lib/, kernel/trace and others without: what tracing and live
// patching themselves may call.
func (u Unit) Hooked() bool {
	return slices.ContainsFunc(u.Compile, func(arg string) bool {
		return arg == "-pg" || arg == "-mfentry" || strings.HasPrefix(arg, "-fpatchable-function-entry=")
	})
}

// RefusedError says why a source file has no object that could be live patched.
type RefusedError struct {
	Source string
	Why    string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("cannot live patch %s: %s", e.Source, e.Why)
}

// parseUnit reads one line that make prints for an object: shell commands of
// which one is the compiler's and the next may be objtool's. It says false for
// every other line.
func parseUnit(line, compiler string) (Unit, bool) {
	if !strings.Contains(line, " -c -o ") {
		return Unit{}, false
	}
	// The rest of the line repeats the command, quoted, for kbuild's own record of it.
	if at := strings.Index(line, "scripts/basic/fixdep "); at >= 0 {
		line = line[:at]
	}
	commands := splitShell(line)
	for i, c := range commands {
		if len(c) < 4 || c[0] != compiler {
			continue
		}
		u, ok := unitOf(c)
		if !ok {
			return Unit{}, false
		}
		if i+1 < len(commands) && len(commands[i+1]) > 1 && path.Base(commands[i+1][0]) == "objtool" {
			tool := commands[i+1]
			u.Objtool = tool[:len(tool)-1]
		}
		return u, true
	}
	return Unit{}, false
}

// unitOf takes the file names out of a compiler command that ends in -c -o OBJECT SOURCE.
func unitOf(argv []string) (Unit, bool) {
	n := len(argv)
	if argv[n-4] != "-c" || argv[n-3] != "-o" || !strings.HasSuffix(argv[n-2], ".o") || !strings.HasSuffix(argv[n-1], ".c") {
		return Unit{}, false
	}
	u := Unit{Object: argv[n-2], Source: argv[n-1]}
	module, name := false, ""
	for _, arg := range argv[:n-4] {
		if strings.HasPrefix(arg, "-Wp,-MMD,") || strings.HasPrefix(arg, "-Wp,-MD,") {
			continue // dependency files are for make
		}
		module = module || arg == "-DMODULE"
		if v, ok := strings.CutPrefix(arg, "-DKBUILD_MODNAME="); ok {
			name = strings.Trim(v, `"`)
		}
		u.Compile = append(u.Compile, arg)
	}
	if module {
		u.Module = name
	}
	return u, name != "" || !module
}

// splitShell splits a shell line into commands and words, as far as kbuild
// needs it: quotes, backslashes, and commands separated by ; or &&.
func splitShell(line string) [][]string {
	var (
		commands [][]string
		words    []string
		word     strings.Builder
		inWord   bool
		quote    byte
	)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			word.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == ' ' || c == '\t':
			endWord()
		case c == ';', c == '&' && i+1 < len(line) && line[i+1] == '&':
			if c == '&' {
				i++
			}
			endCommand()
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	endCommand()
	return commands
}
