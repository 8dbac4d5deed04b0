package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/kernel"
	"afloat/internal/kit/kittest"
)

// testKernel returns a kernel to boot: the kit of AFLOAT_KERNEL (default
// debian:6.1.0-55-amd64) if the cache has it, or what an image package left
// below AFLOAT_LAB_ROOT when it was unpacked there. The test is skipped when
// there is neither.
func testKernel(t *testing.T) Kernel {
	t.Helper()
	name := os.Getenv("AFLOAT_KERNEL")
	if name == "" {
		name = "debian:6.1.0-55-amd64"
	}
	if root := os.Getenv("AFLOAT_LAB_ROOT"); root != "" {
		return unpackedKernel(t, root)
	}
	return KernelOf(kittest.Open(t, name))
}

func unpackedKernel(t *testing.T, root string) Kernel {
	t.Helper()
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		t.Fatalf("AFLOAT_LAB_ROOT=%s: want one boot/vmlinuz-*, have %v", root, images)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	image, err := os.ReadFile(images[0])
	if err != nil {
		t.Fatal(err)
	}
	elf, err := kernel.ExtractVmlinux(image)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, elf, 0o644); err != nil {
		t.Fatal(err)
	}
	return Kernel{Name: release, Release: release, Vmlinux: path, ModulesDir: filepath.Join(root, "lib/modules", release)}
}

// testConfig is a lab of n guests without agents, skipped where it cannot run.
func testConfig(t *testing.T, n int) Config {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a guest")
	}
	for name := range programs {
		if _, err := lookup(name); err != nil {
			t.Skip(err)
		}
	}
	k := testKernel(t)
	guest := filepath.Join(t.TempDir(), "lab-guest")
	build := exec.Command("go", "build", "-o", guest, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build guest helper: %v: %s", err, out)
	}
	return Config{Hosts: Hosts(n, k), Guest: guest}
}

func upLab(t *testing.T, cfg Config) *Lab {
	t.Helper()
	l, err := New(filepath.Join(t.TempDir(), strings.Repeat("a-long-folder-name/", 6), "lab"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Notify(func(line string) { t.Log(line) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Down(ctx); err != nil {
			t.Error(err)
		}
		for _, h := range l.Hosts() {
			if h.PID() != 0 {
				t.Errorf("%s still runs after Down", h.Name)
			}
		}
		if t.Failed() {
			for _, h := range l.Hosts() {
				log, _ := h.ConsoleLog()
				t.Logf("console of %s:\n%s", h.Name, log[max(0, len(log)-4000):])
			}
		}
	})
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestGuest walks one guest through all that can be done to it.
func TestGuest(t *testing.T) {
	cfg := testConfig(t, 1)
	l := upLab(t, cfg)
	h := l.Hosts()[0]
	t.Run("is the kernel asked for", func(t *testing.T) { guestIsKernel(t, h) })
	t.Run("serves through the load balancer", func(t *testing.T) { guestServes(t, l) })
	t.Run("exec tells streams and code apart", func(t *testing.T) { guestExec(t, h) })
	t.Run("is found by another process", func(t *testing.T) { guestReopened(t, l.Dir()) })
	t.Run("cut and restored", func(t *testing.T) { guestCut(t, l, h) })
	t.Run("keeps data over a power cut", func(t *testing.T) { guestPower(t, h) })
	t.Run("comes back from a crash", func(t *testing.T) { guestCrash(t, h) })
	t.Run("comes back from a reset", func(t *testing.T) { guestReset(t, h) })
}

func guestIsKernel(t *testing.T, h *Host) {
	out, err := h.Run(t.Context(), "uname", "-a")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("Linux %s %s ", h.Name, h.Kernel.Release); !strings.HasPrefix(out, want) {
		t.Errorf("uname says %q, want %q first", out, want)
	}
	out, err = h.Script(t.Context(), "grep ' /data ext4 rw' /proc/mounts; ls -d /sys/kernel/livepatch /sys/kernel/tracing/events")
	if err != nil {
		t.Errorf("guest lacks something: %v: %s", err, out)
	}
}

func guestServes(t *testing.T, l *Lab) {
	load, err := l.Meter(20).Run(t.Context(), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if load.Requests != 40 || load.Failed != 0 {
		t.Errorf("load = %+v, want 40 requests and no failure", load)
	}
	t.Logf("load: p50 %v p99 %v max %v", load.P50, load.P99, load.Max)
}

func guestExec(t *testing.T, h *Host) {
	r, err := h.ExecInput(t.Context(), []byte("in"), "sh", "-c", "cat; echo bad >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Result{Stdout: "in", Stderr: "bad\n", Code: 3}); r != want {
		t.Errorf("exec = %+v, want %+v", r, want)
	}
	if _, err := h.Exec(t.Context(), "no-such-program"); err == nil {
		t.Error("a program that is not there ran")
	}
	if err := h.Put(t.Context(), "/run/new/file", 0o755, []byte("#!/bin/sh\necho ran")); err != nil {
		t.Fatal(err)
	}
	if out, err := h.Run(t.Context(), "/run/new/file"); err != nil || out != "ran\n" {
		t.Errorf("script that was put said %q, %v", out, err)
	}
}

func guestReopened(t *testing.T, dir string) {
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.Host("h1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Status(t.Context())
	if err != nil || s.Host != "h1" || !h.Running() {
		t.Errorf("status of reopened host: %+v, %v", s, err)
	}
	if err := l.Up(t.Context()); err != nil { // changes nothing
		t.Error(err)
	}
	if now, _ := h.BootID(t.Context()); now != s.BootID {
		t.Errorf("second Up booted the host again")
	}
}

func guestCut(t *testing.T, l *Lab, h *Host) {
	if err := h.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	direct := func() *Meter {
		return &Meter{URL: fmt.Sprintf("http://127.0.0.1:%d/", h.WorkloadPort()), Rate: 2, Timeout: 2 * time.Second}
	}
	load, err := direct().Run(t.Context(), time.Second)
	if err != nil || load.Failed != 2 {
		t.Errorf("load on a host that is cut off: %+v, %v; want 2 failures", load, err)
	}
	if out, err := h.Run(t.Context(), "echo", "here"); err != nil || out != "here\n" {
		t.Errorf("exec on a host that is cut off: %q, %v", out, err)
	}
	if !h.IsCut() {
		t.Error("the host does not know that it is cut off")
	}
	if err := h.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.Proxy().WaitAllUp(t.Context()); err != nil {
		t.Error(err)
	}
	load, err = direct().Run(t.Context(), time.Second)
	if err != nil || load.Failed != 0 {
		t.Errorf("load on a restored host: %+v, %v", load, err)
	}
}

func guestPower(t *testing.T, h *Host) {
	if err := h.Put(t.Context(), "/data/kept", 0o644, []byte("yes")); err != nil {
		t.Fatal(err)
	}
	was := bootID(t, h)
	if err := h.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Exec(t.Context(), "true"); err == nil || h.Running() {
		t.Error("a host without power ran a command")
	}
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	comesBack(t, h, was)
	if out, err := h.Run(t.Context(), "cat", "/data/kept"); err != nil || out != "yes" {
		t.Errorf("file after a power cut: %q, %v", out, err)
	}
}

func guestCrash(t *testing.T, h *Host) {
	was, pid := bootID(t, h), h.PID()
	if err := h.Crash(t.Context()); err != nil {
		t.Fatal(err)
	}
	comesBack(t, h, was)
	if h.PID() != pid {
		t.Error("the crash ended QEMU")
	}
	log, err := h.ConsoleLog()
	if err != nil || !strings.Contains(log, "Kernel panic - not syncing: sysrq triggered crash") {
		t.Errorf("console does not show the panic (%v)", err)
	}
	if out, err := h.Script(t.Context(), "cat /sys/fs/pstore/dmesg-ramoops-*"); err != nil || !strings.Contains(out, "sysrq triggered crash") {
		t.Errorf("pstore does not show the panic: %v", err)
	}
}

func guestReset(t *testing.T, h *Host) {
	was := bootID(t, h)
	if err := h.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	comesBack(t, h, was)
}

func bootID(t *testing.T, h *Host) string {
	t.Helper()
	id, err := h.BootID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func comesBack(t *testing.T, h *Host, was string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	start := time.Now()
	if _, err := h.WaitBoot(ctx, was); err != nil {
		t.Fatal(err)
	}
	t.Logf("back after %.1f s", time.Since(start).Seconds())
}
