package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestProcessIsFoundByItsArgumentsAndStopped(t *testing.T) {
	dir := t.TempDir()
	mark := fmt.Sprintf("61.%d", os.Getpid()) // seconds to sleep: only this test has this number
	p := process{program: "sleep", marker: mark}
	if err := startDetached(dir, filepath.Join(dir, "log"), "/bin/sleep", mark); err != nil {
		t.Fatal(err)
	}
	pid := p.pid()
	if pid == 0 {
		t.Fatal("started process not found")
	}
	if (process{program: "sleep", marker: mark + "x"}).pid() != 0 || (process{program: "qemu", marker: mark}).pid() != 0 {
		t.Error("a stranger was taken for a process of the lab")
	}
	if err := p.stop(t.Context(), unix.SIGTERM, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if p.pid() != 0 || p.is(pid) {
		t.Error("process still runs after stop")
	}
	if err := p.stop(t.Context(), unix.SIGTERM, time.Second); err != nil {
		t.Errorf("stop of a process that is gone: %v", err)
	}
}

func TestProcessThatIgnoresTheSignalIsKilled(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "stubborn")
	ready := filepath.Join(dir, "ready")
	body := "trap '' TERM\ntouch " + ready + "\nwhile :; do sleep 0.1; done\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	p := process{program: "sh", marker: script}
	if err := startDetached(dir, filepath.Join(dir, "log"), "/bin/sh", script); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("script does not start")
		}
		<-time.After(5 * time.Millisecond)
	}
	if err := p.stop(t.Context(), unix.SIGTERM, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if p.pid() != 0 {
		t.Error("process still runs after stop")
	}
}

func TestMissingProgramIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := lookup("qemu-that-nobody-has")
	if m, ok := errors.AsType[*MissingError](err); !ok || m.Program != "qemu-that-nobody-has" {
		t.Errorf("lookup = %v, want a MissingError", err)
	}
	for name, pkg := range programs {
		if pkg == "" {
			t.Errorf("no package for %s", name)
		}
	}
}

func TestProcessIsFoundAtOnce(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		p := process{program: "sleep", marker: fmt.Sprintf("62.%d%03d", os.Getpid(), i)}
		if err := startDetached(dir, filepath.Join(dir, "log"), "/bin/sleep", p.marker); err != nil {
			t.Fatal(err)
		}
		if p.pid() == 0 {
			t.Errorf("process %d is not found right after its start", i)
		}
		if err := p.stop(t.Context(), unix.SIGKILL, 0); err != nil {
			t.Fatal(err)
		}
	}
}
