package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/lab"
)

// TestDebianExt4Fix takes a real fix, the change to fs/ext4/mballoc.c between
// two of Debian's kernel packages, to three guests whose ext4 is under writes
// and under load, while a fourth runs another flavour of the same version.
func TestDebianExt4Fix(t *testing.T) {
	w := newWorld(t)
	w.kit(amd64)
	w.kit(cloud)
	diff := w.debianDiff("6.1.192-1", "6.1.192-2", "fs/ext4/mballoc.c")
	fix := w.build(amd64, "2026-11-ext4", diff)
	w.up(4, "--kernel", "h4="+cloud)
	w.afloat("bundle", "add", fix.file)
	stop := w.load(10)

	id := w.start("ext4", "2026-11-ext4", "")
	w.until("three hosts to run the fix", 2*time.Minute, func() bool {
		return w.runs("h1", fix.module) && w.runs("h2", fix.module) && w.runs("h3", fix.module)
	})

	t.Run("another flavour is refused by the planner", func(t *testing.T) {
		_, h4 := w.report("h4")
		why := w.afloat("explain", "host", string(h4.ID))
		if !strings.Contains(why, "6.1.0-55-cloud-amd64") || !strings.Contains(why, "6.1.0-55-amd64") {
			t.Errorf("explain names not both kernels: %s", why)
		}
	})
	t.Run("another flavour is refused by the agent", func(t *testing.T) {
		out := w.applyByHand("h4", fix)
		if !strings.Contains(out, "6.1.0-55") || !strings.Contains(out, "cannot") {
			t.Errorf("the agent's refusal does not say why: %s", out)
		}
		if got := w.guest("h4", "ls", "/sys/kernel/livepatch"); strings.TrimSpace(got) != "" {
			t.Errorf("h4 has live patch %s", got)
		}
	})
	t.Run("writes go on", func(t *testing.T) {
		for _, h := range []string{"h1", "h2", "h3"} {
			w.guest(h, "sh", "-c", "dd if=/dev/zero of=/data/big bs=64k count=200 conv=fsync && rm /data/big && sync")
		}
		w.clean("h1", "h2", "h3", "h4")
	})
	load := stop()
	if load.Requests == 0 || load.Failed > 0 {
		t.Errorf("%d of %d requests failed: %v", load.Failed, load.Requests, load.Failures)
	}
	if r := w.rollout(id); r.Phases["failed"] != 0 {
		t.Errorf("rollout: %+v", r.Phases)
	}
	w.afloat("rollout", "abort", id)
	w.foreign()
	w.clean("h1", "h2", "h3", "h4")
}

// foreign loads a live patch on h4 by hand, behind afloat's back: afloat must
// leave the host alone and name what is in the way.
func (w *world) foreign() {
	w.Helper()
	patch := w.example("proc-version.patch")
	strange := w.build(cloud, "stranger", patch)
	ours := w.build(cloud, "ours", patch)
	w.afloat("inspect", "--extract-module", w.file("stranger.ko"), strange.file)
	ko, err := os.ReadFile(w.file("stranger.ko"))
	if err != nil {
		w.Fatal(err)
	}
	if err := w.host("h4").Put(w.Context(), "/tmp/stranger.ko", 0o644, ko); err != nil {
		w.Fatal(err)
	}
	w.guest("h4", "insmod", "/tmp/stranger.ko")
	w.until("the stranger to be enabled", time.Minute, func() bool { return w.runs("h4", strange.module) })
	w.until("the agent to report it", 2*time.Minute, func() bool {
		r, _ := w.report("h4")
		for _, l := range r.Live {
			if l.Name == strange.module && l.Bundle == "" {
				return true
			}
		}
		return false
	})
	w.afloat("bundle", "add", ours.file)
	w.start("over-a-stranger", "ours", "name=h4")
	_, h4 := w.report("h4")
	w.until("the reason to name it", time.Minute, func() bool {
		return strings.Contains(w.afloat("explain", "host", string(h4.ID)), strange.module)
	})
	if out := w.applyByHand("h4", ours); !strings.Contains(out, strange.module) {
		w.Errorf("the agent does not name the foreign live patch: %s", out)
	}
	if !w.runs("h4", strange.module) || w.runs("h4", ours.module) {
		w.Error("the foreign live patch was not left alone")
	}
}

// applyByHand forces a bundle on a host, past the server; it must be refused.
func (w *world) applyByHand(host string, b built) string {
	w.Helper()
	data, err := os.ReadFile(b.file)
	if err != nil {
		w.Fatal(err)
	}
	if err := w.host(host).Put(w.Context(), "/tmp/forced.afloat", 0o644, data); err != nil {
		w.Fatal(err)
	}
	r, err := w.host(host).Exec(w.Context(), "afloat-agent", "apply", "--bundle", "/tmp/forced.afloat")
	if err != nil {
		w.Fatal(err)
	}
	if r.Code == 0 {
		w.Errorf("%s: apply worked, and must not: %s", host, r.Output())
	}
	return r.Output()
}

// load runs a meter on the lab's balancer until stop.
func (w *world) load(rate float64) (stop func() lab.Load) {
	meter := w.lab.Meter(rate)
	end := make(chan struct{})
	done := make(chan lab.Load, 1) // one result, taken by stop
	ctx := w.Context()
	go func() {
		load, err := meter.Run(untilClosed(ctx, end), 0)
		if err != nil {
			w.Error(err)
		}
		done <- load
	}()
	return func() lab.Load { close(end); return <-done }
}

// kit fetches a kernel's kit; the test is skipped only if the archive has it no more.
func (w *world) kit(ref string) {
	w.Helper()
	out, err := w.try("kernel", "fetch", ref)
	if err != nil && strings.Contains(out, "archive") {
		w.Skipf("cannot test with %s: %s", ref, out)
	}
	if err != nil {
		w.Fatalf("kernel fetch %s: %v: %s", ref, err, out)
	}
}

func (w *world) example(name string) string {
	return filepath.Join("..", "..", "..", "examples", name)
}

// debianDiff is the difference of one file between two versions of Debian's
// linux-source-6.1, both taken from the archive.
func (w *world) debianDiff(from, to, file string) string {
	w.Helper()
	for dir, version := range map[string]string{"a": from, "b": to} {
		path := w.file(filepath.Join("diff", dir, file))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.Fatal(err)
		}
		if err := os.WriteFile(path, w.sourceFile(version, file), 0o644); err != nil {
			w.Fatal(err)
		}
	}
	cmd := exec.Command("diff", "-u", "a/"+file, "b/"+file)
	cmd.Dir = w.file("diff")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || len(out) == 0 {
		w.Fatalf("diff of %s between %s and %s: %v, %d bytes", file, from, to, err, len(out))
	}
	diff := w.file("debian.patch")
	if err := os.WriteFile(diff, out, 0o644); err != nil {
		w.Fatal(err)
	}
	return diff
}

// sourceFile reads one file out of Debian's source package without unpacking the rest.
func (w *world) sourceFile(version, file string) []byte {
	w.Helper()
	dir := w.file("source-" + version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command("apt-get", "download", "linux-source-6.1="+version)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Skipf("cannot test: the archive no longer has linux-source-6.1 %s: %v: %s", version, err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		w.Fatalf("download linux-source-6.1 %s: %v, %d packages", version, err, len(debs))
	}
	// --occurrence=1 ends the unpacking at the file: the rest is not wanted.
	out, err := exec.Command("sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -xO --wildcards '*/linux-source-6.1.tar.xz' | `+
		`tar -xJO --occurrence=1 "linux-source-6.1/$1"`, debs[0], file).Output()
	if err != nil || len(out) == 0 {
		w.Fatalf("linux-source-6.1 %s: %v: %d bytes of %s", version, err, len(out), file)
	}
	return out
}
