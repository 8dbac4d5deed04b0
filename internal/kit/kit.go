package kit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afloat/internal/kernel"
)

// Kit is one kernel's folder, whole and checked. Nothing in it may be written
// to except by this package and, under Cache, by package kbuild.
type Kit struct {
	Dir string
	Ref Ref
	Info
	derived string // of a shared kit: our own folder for what is derived from it
}

// Info is what the kit's marker file says.
type Info struct {
	Kernel string    `json:"kernel"` // the Ref that made the kit
	ID     kernel.ID `json:"id"`
	// Package is the version of the image package, and of its source.
	Package string `json:"package"`
	// KernelCompiler built the kernel; Compiler is the command that builds
	// objects here, CompilerText its own first line of --version.
	KernelCompiler string    `json:"kernel_compiler"`
	Compiler       string    `json:"compiler"`
	CompilerText   string    `json:"compiler_text"`
	Vermagic       string    `json:"vermagic"`
	Notes          []string  `json:"notes,omitempty"`
	Made           time.Time `json:"made"`
	// Files that must be there, with their sizes in bytes, by path inside the kit.
	Files map[string]int64 `json:"files"`
	// Modules are the shipped .ko files: name as /proc/modules shows it to path inside the kit.
	Modules map[string]string `json:"modules"`
}

// markerFile is written last; a folder without it is no kit.
const markerFile = "kit.json"

// Errors that callers branch on.
var (
	// ErrNoKit: the cache has no finished kit for the kernel.
	ErrNoKit = errors.New("kit is not in the cache")
	// ErrBrokenKit: the kit's marker is there, but its content is not what was made.
	ErrBrokenKit = errors.New("kit is broken")
	// ErrNoModule: the kernel ships no module of that name.
	ErrNoModule = errors.New("kernel has no such module")
)

// Release is what uname -r prints on the kernel.
func (k *Kit) Release() string { return k.ID.Release }

// Exact names the kit's kernel with its package version, where it has one.
func (k *Kit) Exact() string {
	if k.Ref.Version != "" || k.Package == "" {
		return k.Ref.String()
	}
	return k.Ref.String() + "=" + k.Package
}

// Vmlinux is the path of the unpacked ELF kernel, which QEMU boots by PVH.
func (k *Kit) Vmlinux() string { return filepath.Join(k.Dir, "vmlinux") }

// Vmlinuz is the path of the compressed kernel as shipped.
func (k *Kit) Vmlinuz() string { return filepath.Join(k.Dir, "vmlinuz") }

// Source is the path of the prepared source tree.
func (k *Kit) Source() string { return filepath.Join(k.Dir, "src") }

// Config is the path of the configuration as shipped.
func (k *Kit) Config() string { return filepath.Join(k.Dir, "config") }

// Symvers is the path of the shipped Module.symvers.
func (k *Kit) Symvers() string { return filepath.Join(k.Dir, "Module.symvers") }

// ModuleDir is the folder that holds the shipped modules, as /lib/modules/RELEASE/kernel.
func (k *Kit) ModuleDir() string { return filepath.Join(k.Dir, "modules") }

// SignatureHash is the hash that the kernel's own modules are signed with.
func (k *Kit) SignatureHash() string {
	f, err := os.Open(k.Config())
	if err == nil {
		defer f.Close()
		if config, err := parseConfig(f); err == nil && config["CONFIG_MODULE_SIG_HASH"] != "" {
			return strings.Trim(config["CONFIG_MODULE_SIG_HASH"], `"`)
		}
	}
	return "sha256" // every kernel that knows signatures knows it
}

// Cache is a folder for what is derived from the kit, inside it unless it is shared.
func (k *Kit) Cache() string {
	if k.Shared() {
		return k.derived
	}
	return filepath.Join(k.Dir, "cache")
}

// Shared says that the kit is somebody else's, so that nothing in it may be written to.
func (k *Kit) Shared() bool { return k.derived != "" }

// Module returns the path of a shipped .ko by the name in /proc/modules (a
// dash counts as an underscore); it may be compressed, which
// kernel.ParseModule and kernel.Decompress read. Errors wrap ErrNoModule.
func (k *Kit) Module(name string) (string, error) {
	path, ok := k.Modules[kernel.ModuleName(name)]
	if !ok {
		return "", fmt.Errorf("find module %s of %s: %w", name, k.ID.Release, ErrNoModule)
	}
	return filepath.Join(k.Dir, path), nil
}

// ModuleFile returns a shipped .ko, unpacked.
func (k *Kit) ModuleFile(name string) ([]byte, error) {
	path, err := k.Module(name)
	if err != nil {
		return nil, err
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	file, err := kernel.Decompress(packed)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	return file, nil
}

// ReadModule parses a shipped module.
func (k *Kit) ReadModule(name string) (*kernel.Module, error) {
	path, err := k.Module(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	defer f.Close()
	return kernel.ParseModule(f)
}

// Tables are the parsed tables of one kernel.
type Tables struct {
	Kallsyms *kernel.Kallsyms
	Sizes    kernel.Sizes
	Symvers  kernel.Symvers
	Sealed   []uint64 // see kernel.ReadSealed
}

// Tables parses the kernel's symbol table, types and exports: about 0.1 s.
func (k *Kit) Tables() (Tables, error) {
	f, err := os.Open(k.Vmlinux())
	if err != nil {
		return Tables{}, fmt.Errorf("read kit: %w", err)
	}
	defer f.Close()
	var t Tables
	if t.Kallsyms, err = kernel.ParseKallsyms(f); err != nil {
		return Tables{}, fmt.Errorf("read kit %s: %w", k.Ref, err)
	}
	if t.Sizes, err = kernel.ParseSizes(f); err != nil {
		return Tables{}, fmt.Errorf("read kit %s: %w", k.Ref, err)
	}
	if t.Sealed, err = kernel.ReadSealed(f); err != nil {
		return Tables{}, fmt.Errorf("read kit %s: %w", k.Ref, err)
	}
	s, err := os.Open(k.Symvers())
	if err != nil {
		return Tables{}, fmt.Errorf("read kit: %w", err)
	}
	defer s.Close()
	if t.Symvers, err = kernel.ParseSymvers(s); err != nil {
		return Tables{}, fmt.Errorf("read kit %s: %w", k.Ref, err)
	}
	return t, nil
}

// open reads the marker and checks the files it lists. Errors wrap ErrNoKit or ErrBrokenKit.
func open(dir string) (*Kit, error) {
	data, err := os.ReadFile(filepath.Join(dir, markerFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open kit %s: %w", dir, ErrNoKit)
	}
	if err != nil {
		return nil, fmt.Errorf("open kit: %w", err)
	}
	k := &Kit{Dir: dir}
	if err := json.Unmarshal(data, &k.Info); err != nil {
		return nil, fmt.Errorf("open kit %s: %w: %w", dir, ErrBrokenKit, err)
	}
	if k.Ref, err = ParseRef(k.Kernel); err != nil {
		return nil, fmt.Errorf("open kit %s: %w: %w", dir, ErrBrokenKit, err)
	}
	if err := k.ID.Validate(); err != nil {
		return nil, fmt.Errorf("open kit %s: %w: %w", dir, ErrBrokenKit, err)
	}
	if len(k.Files) == 0 {
		return nil, fmt.Errorf("open kit %s: %w: lists no files", dir, ErrBrokenKit)
	}
	for path, size := range k.Files {
		if err := checkFile(filepath.Join(dir, path), size); err != nil {
			return nil, fmt.Errorf("open kit %s: %w: %w", dir, ErrBrokenKit, err)
		}
	}
	return k, nil
}

func checkFile(path string, size int64) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case st.Size() != size:
		return fmt.Errorf("%s has %d bytes, was made with %d", path, st.Size(), size)
	}
	return nil
}

// writeMarker makes the folder a kit, by an atomic rename.
func (k *Kit) writeMarker() error {
	data, err := json.MarshalIndent(k.Info, "", " ")
	if err != nil {
		return err
	}
	return writeAtomic(filepath.Join(k.Dir, markerFile), data)
}

func writeAtomic(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
