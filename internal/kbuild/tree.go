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
//
// A path that goes up again behind a link ("../x.h" in a linked folder) leads
// into the original tree. folders, which may go up themselves, are made real as well.
func plantTree(dir, source string, files map[string][]byte, folders []string) error {
	real := map[string]bool{".": true}
	for name := range files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("plant tree: %q leaves the tree", name)
		}
		addFolder(real, filepath.Dir(name))
	}
	for _, f := range folders {
		if filepath.IsLocal(f) {
			addFolder(real, f)
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

// addFolder adds a folder and every one that its path leads through: of
// a/b/../c these are a, a/b and a/c.
func addFolder(real map[string]bool, folder string) {
	at := "."
	for step := range strings.SplitSeq(filepath.ToSlash(folder), "/") {
		at = filepath.Join(at, step)
		real[at] = true
	}
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

// linkNew links what a folder of the source tree has and its planted twin lacks.
func linkNew(dir, source, folder string) error {
	for d := folder; d != "."; d = filepath.Dir(d) {
		if st, err := os.Lstat(filepath.Join(dir, d)); err != nil || !st.IsDir() {
			continue // a link shows everything already
		}
		entries, err := os.ReadDir(filepath.Join(source, d))
		if err != nil {
			return fmt.Errorf("plant tree: %w", err)
		}
		for _, e := range entries {
			err := os.Symlink(filepath.Join(source, d, e.Name()), filepath.Join(dir, d, e.Name()))
			if err != nil && !os.IsExist(err) {
				return fmt.Errorf("plant tree: %w", err)
			}
		}
	}
	return nil
}
