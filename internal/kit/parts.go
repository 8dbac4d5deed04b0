package kit

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Parts are the paths of what a kit is made of, where no archive has the kernel.
type Parts struct {
	Image   string // vmlinuz, bzImage, or an ELF vmlinux
	Config  string // the configuration that it was built with
	Symvers string // Module.symvers
	Modules string // folder with its .ko files, at any depth
	Source  string // folder with the source tree that it was built from
}

// PartError says that a part was not found, or several of them.
type PartError struct {
	Part    string // image, config, symvers, modules or source
	Folders []string
	Found   []string // more than one
}

func (e *PartError) Error() string {
	if len(e.Found) == 0 {
		return fmt.Sprintf("cannot find %s below %s", partNames[e.Part], strings.Join(e.Folders, ", "))
	}
	return fmt.Sprintf("cannot tell which is the kernel's %s: %s", e.Part, strings.Join(e.Found, ", "))
}

// partNames say how each part is recognised.
var partNames = map[string]string{
	"image":   "an image (vmlinuz*, bzImage or vmlinux*)",
	"config":  "a configuration (.config or config*)",
	"symvers": "a Module.symvers",
	"modules": "modules (*.ko, *.ko.xz, *.ko.zst or *.ko.gz)",
	"source":  "a source tree (Makefile, Kconfig and Kbuild beside each other)",
}

// FindParts looks in folders, at any depth, for the parts that given leaves
// out. Errors are a *PartError where there is none of a part, or several.
func FindParts(given Parts, folders []string) (Parts, error) {
	found := finder{}
	for _, folder := range folders {
		if err := found.walk(folder); err != nil {
			return given, fmt.Errorf("look for the kernel's parts: %w", err)
		}
	}
	if images := slices.DeleteFunc(slices.Clone(found["image"]), isPlain); len(images) > 0 {
		found["image"] = images // a vmlinux beside a vmlinuz is the same kernel, unpacked
	}
	for _, p := range []struct {
		part  string
		value *string
	}{{"image", &given.Image}, {"config", &given.Config}, {"symvers", &given.Symvers}, {"modules", &given.Modules}, {"source", &given.Source}} {
		if *p.value != "" {
			continue
		}
		if len(found[p.part]) != 1 {
			return given, &PartError{Part: p.part, Folders: folders, Found: found[p.part]}
		}
		*p.value = found[p.part][0]
	}
	return given, nil
}

func isPlain(image string) bool { return strings.HasPrefix(filepath.Base(image), "vmlinux") }

// finder collects candidates by part.
type finder map[string][]string

func (f finder) add(part, path string) {
	if !slices.Contains(f[part], path) {
		f[part] = append(f[part], path)
	}
}

func (f finder) walk(folder string) error {
	return filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return filepath.SkipDir
		case d.IsDir() && isSource(path):
			return f.walkSource(path)
		case d.IsDir() || d.Type()&fs.ModeSymlink != 0:
			return nil
		case isModule(d.Name()):
			f.addModule(folder, path)
		default:
			f.addFile(path)
		}
		return nil
	})
}

// walkSource looks only where a build leaves its results: a source tree has
// many files named like parts.
func (f finder) walkSource(tree string) error {
	f.add("source", tree)
	for part, names := range map[string][]string{
		"image": {"arch/x86/boot/bzImage", "vmlinux"}, "config": {".config"}, "symvers": {"Module.symvers"},
	} {
		for _, name := range names {
			if st, err := os.Stat(filepath.Join(tree, name)); err == nil && st.Mode().IsRegular() {
				f.add(part, filepath.Join(tree, name))
			}
		}
	}
	return filepath.SkipDir
}

func isSource(dir string) bool {
	for _, name := range []string{"Makefile", "Kconfig", "Kbuild"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || !st.Mode().IsRegular() {
			return false
		}
	}
	return true
}

func isModule(name string) bool {
	for _, end := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// addModule adds the folder that a module belongs to: the outermost "kernel", as
// in /lib/modules/RELEASE, else all of the folder that is looked in.
func (f finder) addModule(folder, path string) {
	found := folder
	for dir := filepath.Dir(path); len(dir) > len(folder); dir = filepath.Dir(dir) {
		if filepath.Base(dir) == "kernel" {
			found = dir
		}
	}
	f.add("modules", found)
}

func (f finder) addFile(path string) {
	name := filepath.Base(path)
	switch {
	case name == "Module.symvers":
		f.add("symvers", path)
	case name == ".config", name == "config", strings.HasPrefix(name, "config-"):
		if isConfig(path) {
			f.add("config", path)
		}
	case name == "bzImage", name == "vmlinuz", name == "vmlinux", strings.HasPrefix(name, "vmlinuz-"), strings.HasPrefix(name, "vmlinux-"):
		f.add("image", path)
	}
}

// isConfig tells a kernel's configuration from the many other files of that name.
func isConfig(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, _ := f.Read(head) // none is no configuration
	return bytes.Contains(head[:n], []byte("\nCONFIG_"))
}
