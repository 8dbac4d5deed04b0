package cli

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"afloat/internal/build"
	"afloat/internal/kit"
	"afloat/internal/lab"
)

const (
	bootTestMemoryMB = 512
	bootTestLimit    = 5 * time.Minute
	// consoleEnd is how much of the console a failure shows, in bytes.
	consoleEnd = 3000
	// checkFailed is the exit code of bootScript where the author's check failed.
	checkFailed = 4
)

// bootScript takes a live patch through its life; its exit code is the step
// that failed, from 1. Its first argument is the module, the others the modules
// that it patches. It ends with what the kernel said meanwhile.
const bootScript = `
dmesg -c >/dev/null
name=$1; shift
state=/sys/kernel/livepatch/$name
settle() {
	for i in $(seq 300); do
		[ "$(cat $state/transition 2>/dev/null || echo 0)" = 0 ] && return 0
		sleep 0.1
	done
	return 1
}
insmod /boottest/patch.ko || exit 1
settle || exit 2
[ "$(cat $state/enabled)" = 1 ] || exit 3
[ ! -e /boottest/check ] || /boottest/check || exit 4
echo 0 >$state/enabled || exit 5
settle || exit 6
for i in $(seq 100); do [ -e $state ] || break; sleep 0.1; done
rmmod $name || exit 7
for m in "$@"; do [ -e /sys/module/$m ] || echo "afloat-missing $m"; done
dmesg
`

// bootSteps says what bootScript did, by its exit codes from 1.
var bootSteps = [...]string{"loading the module", "waiting for the transition to end", "enabling it", "the check script", "disabling it",
	"waiting for the transition back to end", "unloading the module"}

// bootAlarms are the kernel's words for what must not happen.
var bootAlarms = regexp.MustCompile(`WARNING: |BUG: |Oops|general protection|Call Trace|INFO: task |rcu: INFO|unable to handle|` +
	`livepatch: .*(fail|cannot|unable|error)|Unknown symbol|[iI]nvalid relocation`)

// bootTestError says why a built live patch was not sealed.
type bootTestError struct {
	kernel, why, console string
}

func (e *bootTestError) Error() string {
	return fmt.Sprintf("cannot seal the bundle: the boot test on %s failed: %s\n%s", e.kernel, e.why, e.console)
}

// bootTest takes a draft through its life on its own kernel in QEMU, and
// returns what was seen, in sentences. A live patch that fails is a *bootTestError.
func bootTest(ctx context.Context, k *kit.Kit, d *build.Draft, check []byte) ([]string, error) {
	guest, err := beside("lab-guest")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTestLimit, fmt.Errorf("no end after %v", bootTestLimit))
	defer cancel()
	modules := bootModules(d)
	files := map[string][]byte{"/boottest/patch.ko": d.Module, "/boottest/life": []byte("#!/bin/sh" + bootScript)}
	if check != nil {
		files["/boottest/check"] = check
	}
	began := time.Now()
	result, err := lab.Trial{
		Kernel: lab.Kernel{Name: k.Ref.String(), Release: k.Release(), Vmlinux: k.Vmlinux(), ModulesDir: k.ModuleDir()},
		Guest:  guest, Modules: modules, MemoryMB: bootTestMemoryMB, Files: files,
		Script: "/boottest/life " + strings.Join(append([]string{d.Manifest.Module}, modules...), " "),
	}.Run(ctx)
	if err == nil {
		return judge(k.Release(), result, check != nil, time.Since(began))
	}
	if result.Console == "" { // the guest never ran: nothing was learnt about the live patch
		return nil, fmt.Errorf("boot test: %w", err)
	}
	return nil, &bootTestError{kernel: k.Release(), why: err.Error(), console: end(result.Console)}
}

// bootModules lists the modules of the kernel that the live patch changes.
func bootModules(d *build.Draft) []string {
	var names []string
	for _, f := range d.Manifest.Functions {
		if f.Object != "vmlinux" && !slices.Contains(names, f.Object) {
			names = append(names, f.Object)
		}
	}
	return names
}

// judge decides what a boot test that ran to its end showed.
func judge(release string, r lab.TrialResult, checked bool, took time.Duration) ([]string, error) {
	fail := func(why string) ([]string, error) {
		return nil, &bootTestError{kernel: release, why: why, console: end(r.Output() + r.Console)}
	}
	if r.Code != 0 {
		step := fmt.Sprintf("exit code %d", r.Code)
		if r.Code >= 1 && r.Code <= len(bootSteps) {
			step = bootSteps[r.Code-1]
		}
		return fail(step)
	}
	var untested []string
	for line := range strings.Lines(r.Stdout) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "afloat-missing "); ok {
			untested = append(untested, "the guest has no use for module "+name+", so that its functions were not redirected")
		}
	}
	for line := range strings.Lines(r.Stdout) { // not the console: what the boot said is not the live patch's doing
		if bootAlarms.MatchString(line) {
			return fail("the kernel warned: " + strings.TrimSpace(line))
		}
	}
	said := []string{fmt.Sprintf("%s in QEMU loaded the module, ended its transition, disabled and unloaded it without a kernel warning; %.1f s with the boot",
		release, took.Seconds())}
	if checked {
		said = append(said, "the author's check script passed while the live patch was in effect")
	}
	return append(said, untested...), nil
}

func end(s string) string { return s[max(0, len(s)-consoleEnd):] }
