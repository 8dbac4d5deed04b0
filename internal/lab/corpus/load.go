package corpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"afloat/internal/kernel"
	"afloat/internal/lab"
)

// guestMemoryMB lets a guest hold some tens of loaded drivers.
const guestMemoryMB = 1024

// loadLimit is how long one module may take in the guest, under TCG on a busy machine.
const loadLimit = 4 * time.Minute

// loadBatch loads built modules one after the other in one guest. Where one
// takes the guest down, the others go on in a new one.
func (r *run) loadBatch(ctx context.Context, results []Result) error {
	var g *guest
	defer func() {
		if g != nil {
			_ = g.end(ctx)
		}
	}()
	for _, result := range results {
		if g == nil {
			var err error
			if g, err = r.boot(ctx); err != nil {
				return err
			}
		}
		start := time.Now()
		load, err := r.load(ctx, g, result)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil { // the guest is not to be trusted any more
			load = Load{Detail: err.Error()}
			if log, e := g.host.ConsoleLog(); e == nil {
				load.Detail += "\n" + tail(log, 3000)
			}
			err, g = g.end(ctx), nil
			if err != nil {
				return err
			}
		}
		load.MS = time.Since(start).Milliseconds()
		result.Load = &load
		r.tell(result)
		if err := r.store.put(result, nil); err != nil {
			return err
		}
	}
	return nil
}

// guest is a booted guest and what is known about its modules.
type guest struct {
	host *lab.Host
	end  func(context.Context) error
	// broken modules took a guest down or did not load, with the reason.
	broken map[string]string
}

func (r *run) boot(ctx context.Context) (*guest, error) {
	h, end, err := lab.Trial{Kernel: r.guestKernel(), Guest: r.Guest, MemoryMB: guestMemoryMB}.Boot(ctx)
	if err != nil {
		if end != nil {
			err = errors.Join(err, end(ctx))
		}
		return nil, err
	}
	return &guest{host: h, end: end, broken: r.broken}, nil
}

func (r *run) guestKernel() lab.Kernel {
	return lab.Kernel{Name: r.Kit.Ref.String(), Release: r.Kit.Release(), Vmlinux: r.Kit.Vmlinux(), ModulesDir: r.Kit.ModuleDir()}
}

// load takes one live patch through its whole life. An error means that the
// guest is gone, or hangs.
func (r *run) load(ctx context.Context, g *guest, result Result) (Load, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadLimit, fmt.Errorf("no end after %v", loadLimit))
	defer cancel()
	var load Load
	load.Patching = true
	for _, target := range result.Targets {
		if target == "vmlinux" {
			continue
		}
		why, err := r.loadTarget(ctx, g, target)
		if err != nil {
			return load, err
		}
		if why != "" {
			load.Patching, load.Detail = false, why
		}
	}
	module, err := r.store.module(result)
	if err != nil {
		return load, err
	}
	if err := g.host.Put(ctx, "/tmp/patch.ko", 0o644, module); err != nil {
		return load, err
	}
	out, err := g.host.Exec(ctx, "sh", "-c", lifeScript, "life", result.Module)
	if err != nil {
		return load, err
	}
	if out.Code != 0 {
		return load, fmt.Errorf("step %d failed: %s", out.Code, out.Output())
	}
	if alarm := alarming(out.Stdout); alarm != "" {
		return load, fmt.Errorf("the kernel warned: %s\n%s", alarm, tail(out.Stdout, 3000))
	}
	if load.Redirected = redirected(out.Stdout); load.Patching && load.Redirected != result.Functions {
		return load, fmt.Errorf("the kernel redirected %d of %d functions", load.Redirected, result.Functions)
	}
	load.OK = true
	return load, nil
}

// lifeScript loads, enables, disables and unloads a live patch, and prints what
// the kernel said meanwhile. Its exit code is the step that failed.
const lifeScript = `
dmesg -c >/dev/null
state=/sys/kernel/livepatch/$1
# A transition ends when every task has left the functions; that takes seconds at most.
settle() {
	for i in $(seq 300); do
		[ "$(cat $state/transition 2>/dev/null || echo 0)" = 0 ] && return 0
		sleep 0.1
	done
	for stack in /proc/[0-9]*/patch_state; do
		[ "$(cat $stack)" = -1 ] || { echo $stack $(cat $stack); cat ${stack%/*}/comm ${stack%/*}/stack; }
	done
	return 1
}
insmod /tmp/patch.ko || { dmesg | tail -5; exit 1; }
settle || exit 2
[ "$(cat $state/enabled)" = 1 ] || exit 3
echo redirected $(grep -c klp_ftrace_handler /sys/kernel/tracing/enabled_functions)
echo 0 >$state/enabled || exit 4
settle || exit 5
for i in $(seq 100); do
	[ -e $state ] || break
	sleep 0.1
done
[ ! -e $state ] || exit 6
rmmod $1 || exit 7
[ ! -e /sys/module/$1 ] || exit 8
rm /tmp/patch.ko
dmesg
`

// alarms are the kernel's words for what must not happen.
var alarms = regexp.MustCompile(`WARNING: |BUG: |Oops|general protection|Call Trace|INFO: task |rcu: INFO|unable to handle|` +
	`livepatch: .*(fail|cannot|unable|error)|Unknown symbol|invalid relocation|Invalid relocation`)

// alarming returns the first line that should not be there, or "".
func alarming(log string) string {
	for line := range strings.Lines(log) {
		if alarms.MatchString(line) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// redirected reads how many functions the kernel had redirected, from lifeScript's output.
func redirected(out string) int {
	for line := range strings.Lines(out) {
		if n, ok := strings.CutPrefix(line, "redirected "); ok {
			count, err := strconv.Atoi(strings.TrimSpace(n))
			if err == nil {
				return count
			}
		}
	}
	return 0
}

// loadTarget loads a module of the kernel and what it needs, and says why the
// guest cannot where it cannot, mostly for want of the hardware.
func (r *run) loadTarget(ctx context.Context, g *guest, target string) (why string, err error) {
	if why := g.broken[target]; why != "" {
		return why, nil
	}
	order, err := r.loadOrder(target)
	if err != nil {
		return "", err
	}
	for _, name := range order {
		if why, err = r.loadOne(ctx, g, name); err != nil {
			g.broken[target] = fmt.Sprintf("loading %s takes the guest down", name)
			return "", err
		}
		if why != "" {
			g.broken[target] = why
			return why, nil
		}
	}
	return "", nil
}

func (r *run) loadOne(ctx context.Context, g *guest, name string) (why string, err error) {
	there, err := g.host.Exec(ctx, "test", "-e", "/sys/module/"+name)
	if err != nil || there.Code == 0 {
		return "", err
	}
	path, err := r.Kit.Module(name)
	if err != nil {
		return "", err
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read module: %w", err)
	}
	content, err := kernel.Decompress(packed)
	if err != nil {
		return "", err
	}
	file := filepath.Join("/tmp", name+".ko")
	if err := g.host.Put(ctx, file, 0o644, content); err != nil {
		return "", err
	}
	out, err := g.host.Exec(ctx, "sh", "-c", "insmod $1; code=$?; rm $1; exit $code", "load", file)
	if err != nil {
		return "", err
	}
	if out.Code != 0 {
		return fmt.Sprintf("%s does not load in the guest: %s", name, strings.TrimSpace(out.Output())), nil
	}
	return "", nil
}

// loadOrder is the module after all that it depends on.
func (r *run) loadOrder(target string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		m, err := r.Kit.ReadModule(name)
		if err != nil {
			return err
		}
		for _, dep := range m.Depends {
			if err := visit(dep); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	err := visit(target)
	return slices.Clip(order), err
}

// tail is the end of a text, at most n bytes.
func tail(s string, n int) string { return s[max(0, len(s)-n):] }
