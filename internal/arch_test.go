// Package internal holds afloat's packages. Its test keeps the order in which
// they may import each other.
package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// order is the way through the house: data flows down, imports point up.
// pure packages (law 1) import only pure packages.
var order = []struct {
	name string
	pure bool
}{
	{"patch", true}, {"kernel", true}, {"kit", false}, {"kbuild", false}, {"elfdiff", true},
	{"proof", true}, {"klpmod", false}, {"bundle", true}, {"risk", true}, {"build", false},
	{"fleet", true}, {"policy", true}, {"wire", true}, {"health", true}, {"gate", true},
	{"rollout", true}, {"plan", true}, {"control", true},
	{"flags", false}, {"converge", true}, {"livepatch", false}, {"boot", false}, {"drain", false}, {"crash", false}, {"agent", false},
	{"audit", true}, {"enrol", false}, {"store", false}, {"server", false}, {"api", true}, {"web", false},
	{"sim", false}, {"lab", false}, {"cli", false},
}

// impure lists what a pure package may not import: the clock stays out by the
// test below, which looks for calls of time.Now and its like.
var impure = []string{"os", "os/exec", "net", "net/http", "log", "log/slog", "syscall", "math/rand", "golang.org/x/sys/unix"}

func TestImportsPointUp(t *testing.T) {
	rank := map[string]int{}
	for i, p := range order {
		rank[p.name] = i
	}
	for _, file := range sources(t) {
		owner := strings.Split(filepath.ToSlash(file), "/")[0]
		at, known := rank[owner]
		if !known {
			t.Errorf("%s: package %s is not in the order", file, owner)
			continue
		}
		for _, path := range imports(t, file) {
			checkImport(t, file, at, path, rank)
		}
	}
}

func checkImport(t *testing.T, file string, at int, path string, rank map[string]int) {
	t.Helper()
	from := order[at]
	if rest, ok := strings.CutPrefix(path, "afloat/internal/"); ok {
		name := strings.Split(rest, "/")[0]
		to, known := rank[name]
		switch {
		case !known:
			t.Errorf("%s imports %s, which is not in the order", file, path)
		case to > at:
			t.Errorf("%s: %s imports %s, which comes after it", file, from.name, name)
		case from.pure && !order[to].pure:
			t.Errorf("%s: pure package %s imports %s, which is not pure", file, from.name, name)
		}
		return
	}
	if !from.pure {
		return
	}
	for _, bad := range impure {
		if path == bad {
			t.Errorf("%s: pure package %s imports %s", file, from.name, path)
		}
	}
}

func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return filepath.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no source files found")
	}
	return files
}

func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}
