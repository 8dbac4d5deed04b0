// Package lab runs real kernels in QEMU with real agents and real traffic:
// a few guests on this machine, a real HAProxy in front of their workload, and
// a meter that counts every failed request. Tests and `afloat lab` use it.
//
// A lab lives in a folder. Its processes outlive the command that started
// them; any later process opens the folder and goes on. No number in a file
// is trusted to name a process: each is found by its own arguments.
package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Lab is a fleet of guests with their load balancer. Make one with New, or
// Open one that another process made.
type Lab struct {
	dir    string
	state  state
	hosts  []*Host
	notify func(string)
}

// bootLimit is how long Up waits for a guest: a lone one answers in about 5 s
// under TCG, three together in about 13 s, on a busy machine in much more.
const bootLimit = 3 * time.Minute

// New makes a lab in dir, which must hold none. Nothing runs before Up.
func New(dir string, cfg Config) (*Lab, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	for _, h := range cfg.Hosts {
		if err := h.Kernel.validate(); err != nil {
			return nil, fmt.Errorf("make lab: host %s: %w", h.Name, err)
		}
	}
	if _, err := os.Stat(statePath(dir)); err == nil {
		return nil, fmt.Errorf("make lab: %s already holds one", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	s, err := newState(cfg)
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	if err := s.write(dir); err != nil {
		return nil, err
	}
	return open(dir, s)
}

// Open returns the lab that lives in dir. Errors wrap ErrNoLab.
func Open(dir string) (*Lab, error) {
	s, err := readState(dir)
	if err != nil {
		return nil, err
	}
	return open(dir, s)
}

func open(dir string, s state) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open lab: %w", err)
	}
	l := &Lab{dir: dir, state: s, notify: func(string) {}}
	for i, h := range s.Config.Hosts {
		l.hosts = append(l.hosts, &Host{Name: h.Name, Kernel: h.Kernel, vm: machine{
			dir:       filepath.Join(dir, "hosts", h.Name),
			mark:      l.mark(h.Name),
			host:      h.Name,
			vmlinux:   h.Kernel.Vmlinux,
			initramfs: l.initramfs(h.Kernel),
			memoryMB:  s.Config.MemoryMB,
			workload:  s.Hosts[i].WorkloadPort,
			control:   s.Hosts[i].ControlPort,
		}})
	}
	return l, nil
}

// mark is an argument that only the host's QEMU has, on this whole machine.
func (l *Lab) mark(host string) string {
	sum := sha256.Sum256([]byte(l.dir))
	return "afloat-lab-" + hex.EncodeToString(sum[:6]) + "-" + host
}

func (l *Lab) initramfs(k Kernel) string {
	sum := sha256.Sum256([]byte(k.Vmlinux + "\x00" + k.ModulesDir))
	return filepath.Join(l.dir, "initramfs-"+k.Release+"-"+hex.EncodeToString(sum[:4])+".cpio")
}

// Dir is the lab's folder.
func (l *Lab) Dir() string { return l.dir }

// Notify sets what is told about progress, one line at a time, from any goroutine.
func (l *Lab) Notify(tell func(line string)) { l.notify = tell }

// Hosts returns the hosts in the order of the Config.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host returns the named host.
func (l *Lab) Host(name string) (*Host, error) {
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("find host %q: not in the lab", name)
}

// ServerPorts are two ports of 127.0.0.1 kept for an afloat server: HTTPS and
// NATS. Guests reach them at 10.0.2.2.
func (l *Lab) ServerPorts() (https, nats int) {
	return l.state.ServerPorts[0], l.state.ServerPorts[1]
}

// Up makes what the guests need, powers all of them on, starts the load
// balancer, and returns when every host answers and takes traffic. It may be
// called again: what runs is left alone, disks are kept.
func (l *Lab) Up(ctx context.Context) error {
	if err := l.prepare(ctx); err != nil {
		return err
	}
	for _, h := range l.hosts {
		if err := h.Start(); err != nil {
			return err
		}
	}
	if err := l.waitAll(ctx); err != nil {
		return err
	}
	if err := l.Proxy().Start(); err != nil {
		return err
	}
	return l.Proxy().WaitAllUp(ctx)
}

// prepare writes each kernel's initramfs and each host's disk.
func (l *Lab) prepare(ctx context.Context) error {
	c := contents{guest: l.state.Config.Guest, agent: l.state.Config.Agent, modules: l.state.Config.Modules}
	made := map[string]bool{}
	for i, h := range l.hosts {
		if h.Running() {
			continue // it may boot again from its initramfs at any time
		}
		if path := h.vm.initramfs; !made[path] && !l.inUse(path) {
			made[path] = true
			if err := writeInitramfs(path, h.Kernel, c); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(h.vm.dir, 0o755); err != nil {
			return fmt.Errorf("make host folder: %w", err)
		}
		disk := filepath.Join(h.vm.dir, diskFile)
		if _, err := os.Stat(disk); err == nil {
			continue
		}
		if err := makeDisk(ctx, disk, l.state.Config.DiskMB, l.state.Config.Hosts[i].Seed); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) inUse(initramfs string) bool {
	for _, h := range l.hosts {
		if h.vm.initramfs == initramfs && h.Running() {
			return true
		}
	}
	return false
}

func (l *Lab) waitAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("no answer within %v", bootLimit))
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(l.hosts))
	for i, h := range l.hosts {
		wg.Go(func() {
			if errs[i] = h.WaitReady(ctx); errs[i] == nil {
				l.notify(fmt.Sprintf("%s is up on %s after %.1f s", h.Name, h.Kernel.Release, time.Since(start).Seconds()))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Down ends every process of the lab. The folder stays, with disks and logs.
func (l *Lab) Down(ctx context.Context) error {
	errs := []error{l.Proxy().Stop(ctx), l.stopServer(ctx)}
	for _, h := range l.hosts {
		errs = append(errs, h.PowerOff(ctx))
	}
	return errors.Join(errs...)
}

// Remove is Down, and then deletes what the lab made: disks, logs, the
// server's state. Other files in the folder stay.
func (l *Lab) Remove(ctx context.Context) error {
	if err := l.Down(ctx); err != nil {
		return err
	}
	made := []string{"hosts", "server", "publishers", "server.log", "haproxy.log", proxyConfig, proxySocket}
	initramfs, err := filepath.Glob(filepath.Join(l.dir, "initramfs-*.cpio"))
	if err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	for _, name := range made {
		initramfs = append(initramfs, filepath.Join(l.dir, name))
	}
	var errs []error
	// lab.json goes last: without it nobody could try again.
	for _, path := range append(initramfs, statePath(l.dir)) {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove lab: %w", err)
	}
	_ = os.Remove(l.dir) // only if nothing of somebody else is in it
	return nil
}
