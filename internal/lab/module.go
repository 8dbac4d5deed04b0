package lab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"afloat/internal/kernel"
	"afloat/internal/kit"
)

// Kernel is what a guest boots.
type Kernel struct {
	// Name is how the operator calls it: debian:6.1.0-55-amd64.
	Name string `json:"name"`
	// Release is what `uname -r` prints in the guest.
	Release string `json:"release"`
	// Vmlinux is the uncompressed ELF file. QEMU enters it by PVH, which
	// saves the self-decompression of a bzImage: ~9 s under TCG.
	Vmlinux string `json:"vmlinux"`
	// ModulesDir holds the kernel's .ko files, at any depth.
	ModulesDir string `json:"modules_dir"`
}

// KernelOf is the kernel of a kit.
func KernelOf(k *kit.Kit) Kernel {
	return Kernel{Name: k.Ref.String(), Release: k.Release(), Vmlinux: k.Vmlinux(), ModulesDir: k.ModuleDir()}
}

func (k Kernel) validate() error {
	switch {
	case k.Release == "":
		return errors.New("kernel has no release")
	case k.Vmlinux == "":
		return fmt.Errorf("kernel %s has no vmlinux", k.Release)
	case k.ModulesDir == "":
		return fmt.Errorf("kernel %s has no modules folder", k.Release)
	}
	f, err := os.Open(k.Vmlinux)
	if err != nil {
		return fmt.Errorf("open kernel: %w", err)
	}
	defer f.Close()
	head := make([]byte, len(elf.ELFMAG))
	if _, err := io.ReadFull(f, head); err != nil || string(head) != elf.ELFMAG {
		return fmt.Errorf("kernel %s is not an ELF file (a vmlinuz must be extracted first)", k.Vmlinux)
	}
	return nil
}

// moduleTree is the .ko files of one kernel, by module name.
type moduleTree map[string]string

// ErrNoModule says that a kernel ships no module of that name.
var ErrNoModule = errors.New("kernel has no such module")

// openModules lists the .ko files. It does without modules.dep, which depmod
// writes when a kernel is installed: kits are unpacked, not installed.
func openModules(dir string) (moduleTree, error) {
	t := moduleTree{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(d.Name(), ".ko") {
			t[kernel.ModuleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	if len(t) == 0 {
		return nil, fmt.Errorf("list modules: no .ko file below %s", dir)
	}
	return t, nil
}

// has says whether name is a file; flavours build some modules in.
func (t moduleTree) has(name string) bool { return t[kernel.ModuleName(name)] != "" }

// loadOrder returns what names need, each module after what it depends on.
// Errors wrap ErrNoModule.
func (t moduleTree) loadOrder(names ...string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = kernel.ModuleName(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		content, err := t.read(name)
		if err != nil {
			return err
		}
		m, err := kernel.ParseModule(bytes.NewReader(content))
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, dep := range m.Depends {
			if err := visit(dep); err != nil {
				return fmt.Errorf("%w (needed by %s)", err, name)
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// read returns the module's ELF file, decompressed.
func (t moduleTree) read(name string) ([]byte, error) {
	path, ok := t[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoModule, name)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	return kernel.Decompress(content)
}
