// Package livepatch reads and changes the live patches and modules of the
// kernel it runs on: /sys/kernel/livepatch, finit_module, delete_module and
// the tasks that hold up a transition. It turns system calls into typed
// errors. It decides nothing, and it never writes a live patch's force file:
// a forced module can never be unloaded again.
package livepatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	patchDir    = "kernel/livepatch" // below /sys
	modulesFile = "modules"          // below /proc
)

// Patch is one entry of /sys/kernel/livepatch.
type Patch struct {
	Name       string
	Enabled    bool // in a transition: the state it goes to
	Transition bool
	Objects    []string // vmlinux and the modules it patches, sorted
}

// Kernel is the running kernel, or in tests a tree of files that looks like one.
type Kernel struct {
	sys, proc *os.Root
	syscalls  syscalls
}

// Open returns the running kernel.
func Open() (*Kernel, error) { return OpenAt("/sys", "/proc") }

// OpenAt reads sysfs and procfs from other folders; modules are still loaded
// into the running kernel.
func OpenAt(sys, proc string) (*Kernel, error) {
	s, err := os.OpenRoot(sys)
	if err != nil {
		return nil, fmt.Errorf("open sysfs: %w", err)
	}
	p, err := os.OpenRoot(proc)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open procfs: %w", err), s.Close())
	}
	return &Kernel{sys: s, proc: p, syscalls: realSyscalls()}, nil
}

// Close releases the folders.
func (k *Kernel) Close() error { return errors.Join(k.sys.Close(), k.proc.Close()) }

// Patches lists the live patches, by name. It returns an UnsupportedError if
// the kernel has no live patching.
func (k *Kernel) Patches() ([]Patch, error) {
	entries, err := fs.ReadDir(k.sys.FS(), patchDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &UnsupportedError{Needs: "CONFIG_LIVEPATCH"}
	}
	if err != nil {
		return nil, fmt.Errorf("list live patches: %w", err)
	}
	var patches []Patch
	for _, e := range entries {
		p, err := k.Patch(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken off between the listing and the look
		}
		if err != nil {
			return nil, err
		}
		patches = append(patches, p)
	}
	return patches, nil
}

// Patch reads one live patch. The error wraps fs.ErrNotExist if it is not there.
func (k *Kernel) Patch(name string) (Patch, error) {
	if !fs.ValidPath(name) || strings.Contains(name, "/") || name == "." {
		return Patch{}, fmt.Errorf("read live patch %q: not a name", name)
	}
	p := Patch{Name: name}
	var err error
	if p.Enabled, err = k.flag(name, "enabled"); err != nil {
		return Patch{}, err
	}
	if p.Transition, err = k.flag(name, "transition"); err != nil {
		return Patch{}, err
	}
	entries, err := fs.ReadDir(k.sys.FS(), path.Join(patchDir, name))
	if err != nil {
		return Patch{}, fmt.Errorf("read live patch %s: %w", name, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			p.Objects = append(p.Objects, e.Name())
		}
	}
	slices.Sort(p.Objects)
	return p, nil
}

func (k *Kernel) flag(name, file string) (bool, error) {
	data, err := k.sys.ReadFile(path.Join(patchDir, name, file))
	if errors.Is(err, syscall.ENODEV) { // the kernel is dropping the directory
		err = fs.ErrNotExist
	}
	if err != nil {
		return false, fmt.Errorf("read live patch %s: %s: %w", name, file, err)
	}
	on, err := parseFlag(data)
	if err != nil {
		return false, fmt.Errorf("read live patch %s: %s: %w", name, file, err)
	}
	return on, nil
}

// parseFlag accepts exactly what sysfs prints; anything else is unknown and
// must not be taken for off.
func parseFlag(data []byte) (bool, error) {
	switch string(data) {
	case "0\n":
		return false, nil
	case "1\n":
		return true, nil
	}
	return false, fmt.Errorf("%.20q is neither 0 nor 1", data)
}

// Modules lists the loaded modules by name, as /proc/modules has them.
func (k *Kernel) Modules() ([]string, error) {
	data, err := k.proc.ReadFile(modulesFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &UnsupportedError{Needs: "CONFIG_MODULES"}
	}
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	return parseModules(data)
}

// parseModules reads lines of "name size refcount users state address ...".
func parseModules(data []byte) ([]string, error) {
	var names []string
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 6 {
			return nil, fmt.Errorf("list modules: line %d: %d fields, want at least 6", len(names)+1, len(fields))
		}
		switch fields[4] {
		case "Live", "Loading", "Unloading":
		default:
			return nil, fmt.Errorf("list modules: line %d: state %q is not known", len(names)+1, fields[4])
		}
		names = append(names, fields[0])
	}
	return names, nil
}

// SetEnabled writes a live patch's enabled file. Off during a transition to on
// reverses it, and the other way round. The error is a *KernelError.
func (k *Kernel) SetEnabled(name string, on bool) error {
	op, value := "disable", "0"
	if on {
		op, value = "enable", "1"
	}
	if _, err := k.Patch(name); err != nil {
		return fmt.Errorf("%s live patch %s: %w", op, name, err)
	}
	f, err := k.sys.OpenFile(path.Join(patchDir, name, "enabled"), os.O_WRONLY, 0)
	if err != nil {
		return kernelError(op, name, err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return kernelError(op, name, err)
	}
	return nil
}

// Polling of a transition: most end within a second, the rest may take a minute.
const (
	pollFast  = 15 * time.Millisecond
	pollSlow  = 200 * time.Millisecond
	fastPolls = 100
)

// Settle waits until the live patch is in no transition and returns it as it
// is then; success of a load is Enabled. If the kernel no longer has it, the
// error wraps fs.ErrNotExist; if ctx ends first, it wraps ctx's error.
func (k *Kernel) Settle(ctx context.Context, name string) (Patch, error) {
	for polls := 0; ; polls++ {
		p, err := k.Patch(name)
		if err != nil || !p.Transition {
			return p, err
		}
		if err := pause(ctx, polls); err != nil {
			return p, fmt.Errorf("wait for transition of %s: %w", name, err)
		}
	}
}

func pause(ctx context.Context, polls int) error {
	d := pollFast
	if polls >= fastPolls {
		d = pollSlow
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
