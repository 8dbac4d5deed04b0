// Package agenttest has a kernel that pretends, for tests of the agent and of
// whatever drives agents. It lives in a folder, so that it survives the
// process of an agent that is killed, as a real kernel does. It is in no
// binary that is shipped.
package agenttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"afloat/internal/kernel"
	"afloat/internal/livepatch"

	"golang.org/x/sys/unix"
)

// Module is what a pretended live patch does. Its Bytes are a bundle's payload.
type Module struct {
	Name string `json:"name"`
	// Transition is how long the transition takes, load and removal alike.
	Transition time.Duration `json:"transition_ns,omitempty"`
	// Stall holds the transition to it up for ever, by these tasks.
	Stall []livepatch.Task `json:"stall,omitempty"`
	// Errno is what loading it returns, 0 for success.
	Errno unix.Errno `json:"errno,omitempty"`
	// Crash takes the host down while it is loaded: Load never returns success.
	Crash bool `json:"crash,omitempty"`
	// States are the klp states, id to version.
	States map[uint64]uint32 `json:"states,omitempty"`
}

// takesOver is the kernel's rule for a live patch that replaces another.
func (m Module) takesOver(old Module) bool {
	for id, version := range old.States {
		if have, ok := m.States[id]; !ok || have < version {
			return false
		}
	}
	return true
}

// Bytes is the payload for a bundle.
func (m Module) Bytes() []byte {
	data, err := json.Marshal(m)
	if err != nil {
		panic(err) // plain data
	}
	return data
}

// Load is one call of Load, for tests to count.
type Load struct {
	Boot   string     `json:"boot"`
	Module string     `json:"module"`
	Errno  unix.Errno `json:"errno,omitempty"`
}

type patch struct {
	Module  Module    `json:"module"`
	Enabled bool      `json:"enabled"`
	Until   time.Time `json:"until"` // of the transition
	Stalled bool      `json:"stalled,omitempty"`
}

func (p patch) moving(now time.Time) bool { return p.Stalled || now.Before(p.Until) }

// machine is the state on disk.
type machine struct {
	Boots   int       `json:"boots"`
	Booted  time.Time `json:"booted"`
	Patches []patch   `json:"patches"`
	Modules []string  `json:"modules"`
	Loads   []Load    `json:"loads"`
	Log     []string  `json:"log"` // kernel log of this boot
	ID      kernel.ID `json:"id"`
}

// Kernel is a pretended kernel and machine: agent.Kernel and agent.Machine.
type Kernel struct{ dir string }

// DefaultID is the identity of a Kernel that was given none.
func DefaultID() kernel.ID {
	return kernel.ID{
		Release: "6.1.0-55-amd64",
		Version: "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-30)",
		BuildID: "00112233445566778899aabbccddeeff00112233",
	}
}

// NewKernel opens the pretended kernel in a folder, which it makes, booted, if it is not there.
func NewKernel(dir string) (*Kernel, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make kernel: %w", err)
	}
	k := &Kernel{dir: dir}
	return k, k.change(func(m *machine) error {
		if m.Boots == 0 {
			m.Boots, m.Booted, m.ID = 1, time.Now(), DefaultID()
		}
		return nil
	})
}

// change runs f on the state under a lock and stores what it leaves.
func (k *Kernel) change(f func(*machine) error) (err error) {
	lock, err := os.OpenFile(filepath.Join(k.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	path := filepath.Join(k.dir, "kernel.json")
	var m machine
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read pretended kernel: %w", err)
	}
	m.settle(time.Now())
	result := f(&m)
	out, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", out, 0o600); err != nil {
		return err
	}
	return errors.Join(result, os.Rename(path+".new", path))
}

// settle does what the kernel does by itself as time passes: a disabled live
// patch's folder goes when its transition ends, and so do those that a newer one replaced.
func (m *machine) settle(now time.Time) {
	replaced := -1
	for i, p := range m.Patches {
		if p.Enabled && !p.moving(now) {
			replaced = i
		}
	}
	var left []patch
	for i, p := range m.Patches {
		if i < replaced || !p.Enabled && !p.moving(now) {
			continue
		}
		left = append(left, p)
	}
	m.Patches = left
}

func (m *machine) boot() string { return fmt.Sprintf("boot-%d", m.Boots) }

func (m *machine) find(name string) *patch {
	i := slices.IndexFunc(m.Patches, func(p patch) bool { return p.Module.Name == name })
	if i < 0 {
		return nil
	}
	return &m.Patches[i]
}

// ErrDown is what a Load returns that took the host down.
var ErrDown = errors.New("the host went down")

// Load is finit_module. The payload is a Module's Bytes.
func (k *Kernel) Load(name string, payload []byte) error {
	var mod Module
	if err := json.Unmarshal(payload, &mod); err != nil {
		mod.Errno = unix.ENOEXEC
	}
	return k.change(func(m *machine) error {
		now := time.Now()
		errno := mod.Errno
		switch {
		case errno != 0:
		case slices.Contains(m.Modules, mod.Name):
			errno = unix.EEXIST
		case slices.ContainsFunc(m.Patches, func(p patch) bool { return p.moving(now) }):
			errno = unix.EBUSY
		case slices.ContainsFunc(m.Patches, func(p patch) bool { return !mod.takesOver(p.Module) }):
			errno = unix.EINVAL
		}
		m.Loads = append(m.Loads, Load{Boot: m.boot(), Module: name, Errno: errno})
		if errno != 0 {
			return &livepatch.KernelError{Op: "load", Name: name, Errno: errno}
		}
		if mod.Crash {
			m.reboot()
			return ErrDown
		}
		m.Modules = append(m.Modules, mod.Name)
		m.Patches = append(m.Patches, patch{Module: mod, Enabled: true, Until: now.Add(mod.Transition), Stalled: len(mod.Stall) > 0})
		return nil
	})
}

// SetEnabled is a write to the enabled file.
func (k *Kernel) SetEnabled(name string, on bool) error {
	return k.change(func(m *machine) error {
		p := m.find(name)
		op := map[bool]string{true: "enable", false: "disable"}[on]
		if p == nil {
			return &livepatch.KernelError{Op: op, Name: name, Errno: unix.ENOENT}
		}
		now := time.Now()
		for i := range m.Patches {
			if q := &m.Patches[i]; q != p && q.moving(now) {
				return &livepatch.KernelError{Op: op, Name: name, Errno: unix.EBUSY}
			}
		}
		if p.Enabled == on {
			return &livepatch.KernelError{Op: op, Name: name, Errno: unix.EINVAL}
		}
		p.Enabled, p.Stalled, p.Until = on, false, now.Add(p.Module.Transition)
		return nil
	})
}

// Unload is delete_module.
func (k *Kernel) Unload(name string) error {
	return k.change(func(m *machine) error {
		i := slices.Index(m.Modules, name)
		switch {
		case i < 0:
			return &livepatch.KernelError{Op: "unload", Name: name, Errno: unix.ENOENT}
		case m.find(name) != nil:
			return &livepatch.KernelError{Op: "unload", Name: name, Errno: unix.EAGAIN}
		}
		m.Modules = slices.Delete(m.Modules, i, i+1)
		return nil
	})
}

// Patches lists the live patches.
func (k *Kernel) Patches() (out []livepatch.Patch, err error) {
	err = k.change(func(m *machine) error {
		for _, p := range m.Patches {
			out = append(out, livepatch.Patch{Name: p.Module.Name, Enabled: p.Enabled, Transition: p.moving(time.Now())})
		}
		return nil
	})
	return out, err
}

// Modules lists the loaded modules.
func (k *Kernel) Modules() (out []string, err error) {
	err = k.change(func(m *machine) error { out = slices.Clone(m.Modules); return nil })
	return out, err
}

// Stalled lists the tasks that hold up a transition.
func (k *Kernel) Stalled(name string) (out []livepatch.Task, err error) {
	err = k.change(func(m *machine) error {
		if p := m.find(name); p != nil && p.Stalled {
			out = p.Module.Stall
		}
		return nil
	})
	return out, err
}

// Settle waits for the end of a transition.
func (k *Kernel) Settle(ctx context.Context, name string) (livepatch.Patch, error) {
	for {
		patches, err := k.Patches()
		if err != nil {
			return livepatch.Patch{}, err
		}
		i := slices.IndexFunc(patches, func(p livepatch.Patch) bool { return p.Name == name })
		if i < 0 {
			return livepatch.Patch{}, fs.ErrNotExist
		}
		if !patches[i].Transition {
			return patches[i], nil
		}
		timer := time.NewTimer(5 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return patches[i], context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// Boot is the boot id.
func (k *Kernel) Boot() (id string, err error) {
	err = k.change(func(m *machine) error { id = m.boot(); return nil })
	return id, err
}

// Uptime is the time since Reboot or NewKernel.
func (k *Kernel) Uptime() (d time.Duration, err error) {
	err = k.change(func(m *machine) error { d = time.Since(m.Booted); return nil })
	return d, err
}

// Kernel is the kernel's identity.
func (k *Kernel) Kernel() (id kernel.ID, err error) {
	err = k.change(func(m *machine) error { id = m.ID; return nil })
	return id, err
}
