package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MissingError says that a program the lab needs is not installed.
type MissingError struct {
	Program string
	Package string // the Debian package that has it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("cannot run the lab: %s is not installed", e.Program)
}

// programs are what the lab runs, and the Debian packages they come from.
var programs = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"haproxy":            "haproxy",
	"busybox":            "busybox-static",
	"mke2fs":             "e2fsprogs",
}

// lookup finds a program, also in the sbin folders that a normal user's PATH
// lacks on Debian. The error is a *MissingError.
func lookup(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &MissingError{Program: name, Package: programs[name]}
}

// A process of the lab is found by its arguments in /proc, never by a number
// kept in a file: a stale number may name a stranger.
type process struct {
	program string // base name of argv[0]
	marker  string // an argument that only this process has
}

// pid returns the running process's number, or 0.
func (p process) pid() int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && p.is(pid) {
			return pid
		}
	}
	return 0
}

// is says whether pid runs p. A zombie has no arguments, so it does not.
func (p process) is(pid int) bool {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	argv := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	return filepath.Base(argv[0]) == p.program && slices.Contains(argv[1:], p.marker)
}

// startDetached starts argv in folder dir so that it outlives this process,
// with its output appended to log.
func startDetached(dir, log string, argv ...string) error {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(argv[0]), err)
	}
	waitArguments(cmd.Process.Pid)
	return cmd.Process.Release()
}

// waitArguments waits until a new process can be found by its arguments: the
// kernel tells that exec worked a moment before it shows them.
func waitArguments(pid int) {
	folder := filepath.Join("/proc", strconv.Itoa(pid))
	for range 1000 {
		cmdline, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		stat, statErr := os.ReadFile(filepath.Join(folder, "stat"))
		if err != nil || statErr != nil || len(cmdline) > 0 || strings.Contains(string(stat), ") Z ") {
			return
		}
		<-time.After(time.Millisecond)
	}
}

// stop ends p and returns when it is gone: by sig first, by SIGKILL when that
// took longer than grace. A process that does not run is no error.
func (p process) stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	pid := p.pid()
	if pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !p.is(pid) { // the number changed hands before the pidfd held it
		return nil
	}
	for _, try := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{sig, grace}, {unix.SIGKILL, 10 * time.Second}} {
		if err := unix.PidfdSendSignal(fd, try.sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop %s: %w", p.program, err)
		}
		if waitGone(ctx, fd, try.wait) {
			reap(pid)
			return nil
		}
	}
	return fmt.Errorf("stop %s: process %d does not end", p.program, pid)
}

// waitGone waits until the process behind the pidfd ended.
func waitGone(ctx context.Context, fd int, limit time.Duration) bool {
	end := time.Now().Add(limit)
	for {
		left := time.Until(end)
		if left <= 0 {
			return false
		}
		// Short polls only so that ctx is seen; the pidfd itself wakes us.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(min(left, 200*time.Millisecond).Milliseconds())+1)
		if n > 0 {
			return true
		}
		if (err != nil && !errors.Is(err, unix.EINTR)) || ctx.Err() != nil {
			return false
		}
	}
}

// reap collects pid if it is our child; another lab process's child is not.
func reap(pid int) {
	_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
}
