package kbuild

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// plantTree makes dir look like the source tree with some files replaced:
// the folders on the way to a replaced file are real, all else is a link.
// files maps paths in the tree to content; nil content leaves the file out.
func plantTree(dir, source string, files map[string][]byte) error {
	real := map[string]bool{".": true}
	for name := range files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("plant tree: %q leaves the tree", name)
		}
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			real[d] = true
		}
	}
	for d := range real {
		if err := plantFolder(dir, source, d, real, files); err != nil {
			return fmt.Errorf("plant tree: %w", err)
		}
	}
	for name, content := range files {
		if content == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("plant tree: %w", err)
		}
	}
	return nil
}

func plantFolder(dir, source, folder string, real map[string]bool, files map[string][]byte) error {
	if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(source, folder))
	if err != nil {
		if os.IsNotExist(err) {
			return nil // a folder that the patch makes
		}
		return err
	}
	for _, e := range entries {
		name := strings.TrimPrefix(filepath.Join(folder, e.Name()), "./")
		if _, replaced := files[name]; replaced || real[name] {
			continue
		}
		if err := os.Symlink(filepath.Join(source, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
