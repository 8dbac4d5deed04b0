package patches

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestEveryClassHasAPatch finds the classes of refusals in the source, and wants
// a change here for each: a class that nothing shows to come about is either
// dead or not understood.
func TestEveryClassHasAPatch(t *testing.T) {
	shown := map[string][]string{}
	for _, c := range readChanges(t) {
		words := strings.Fields(c.files["expect"])
		if len(words) > 1 && words[0] == "refused" {
			for _, class := range words[1:] {
				shown[class] = append(shown[class], c.name)
			}
		}
	}
	classes := classesInSource(t)
	if len(classes) < 15 {
		t.Fatalf("found only the classes %v", classes)
	}
	for _, class := range classes {
		if len(shown[class]) == 0 {
			t.Errorf("no change in testdata is refused as %s", class)
		}
	}
	for class, names := range shown {
		if !slices.Contains(classes, class) {
			t.Errorf("%v: there is no class %s", names, class)
		}
	}
}

// classesInSource lists the values of every constant of type elfdiff.Class.
func classesInSource(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && isClass(f.Name.Name, spec.Type) {
				for _, v := range spec.Values {
					text, err := strconv.Unquote(v.(*ast.BasicLit).Value)
					if err != nil {
						t.Errorf("%s: %v", path, err)
					}
					out = append(out, text)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// isClass says that a type is Class of package elfdiff.
func isClass(pkg string, typ ast.Expr) bool {
	switch typ := typ.(type) {
	case *ast.Ident:
		return pkg == "elfdiff" && typ.Name == "Class"
	case *ast.SelectorExpr:
		from, ok := typ.X.(*ast.Ident)
		return ok && from.Name == "elfdiff" && typ.Sel.Name == "Class"
	}
	return false
}
