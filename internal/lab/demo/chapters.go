package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"afloat/examples"
	"afloat/internal/api"
	"afloat/internal/lab"
)

const (
	goodPatch = "proc-version.patch"
	badPatch  = "proc-kmsg-oops.patch"
	goodName  = "demo-version"
	badName   = "demo-kmsg"
	// labDir is the lab's folder inside the demo's own.
	labDir = "lab"
	// proofLine is what the fix makes the kernel say in /proc/version.
	proofLine = "patched while running"
)

// prepare has everything at hand before any load starts: kit, key, both bundles.
func (p *play) prepare(ctx context.Context) error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return fmt.Errorf("make demo folder: %w", err)
	}
	if err := p.pickKernel(ctx); err != nil {
		return err
	}
	p.chapter("A kit for %s: all that building for exactly this kernel needs", p.Kernel)
	if _, err := p.exec(ctx, "kernel", "fetch", p.Kernel); err != nil {
		return err
	}
	p.chapter("Two live patches from source diffs, signed with the publisher's key")
	if _, err := p.exec(ctx, "keygen", "-o", "publisher"); err != nil {
		return err
	}
	good, err := p.example(goodPatch)
	if err != nil {
		return err
	}
	bad, err := p.example(badPatch)
	if err != nil {
		return err
	}
	if err := p.buildBundle(ctx, goodName, good); err != nil {
		return err
	}
	// Cumulative: the second replaces the first, so it holds both diffs.
	return p.buildBundle(ctx, badName, good, bad)
}

func (p *play) buildBundle(ctx context.Context, name string, diffs ...string) error {
	args := append([]string{"build", "--kernel", p.Kernel, "--key", "publisher", "--name", name,
		"-o", name + ".afloat"}, diffs...)
	_, err := p.exec(ctx, args...)
	return err
}

// example writes one of the example patches beside the bundles, to be read there.
func (p *play) example(name string) (string, error) {
	diff, err := examples.Patches.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("read example: %w", err)
	}
	path := p.file(name)
	if err := os.WriteFile(path, diff, 0o644); err != nil {
		return "", fmt.Errorf("write example: %w", err)
	}
	return name, nil
}

var plainKernel = regexp.MustCompile(`^debian:6\.1\.0-\d+-amd64$`)

// pickKernel takes the newest 6.1 that the archive offers, unless one was given.
func (p *play) pickKernel(ctx context.Context) error {
	if p.Kernel != "" {
		return nil
	}
	var offered []struct {
		Kernel string `json:"kernel"`
	}
	if err := p.ask(ctx, &offered, "kernel", "list", "--archive"); err != nil {
		return err
	}
	for _, o := range offered { // oldest first
		if plainKernel.MatchString(o.Kernel) {
			p.Kernel = o.Kernel
		}
	}
	if p.Kernel == "" {
		return errors.New("pick kernel: the archive offers no 6.1.0-N-amd64")
	}
	return nil
}

// fleet boots the guests, lets them join, and raises them to act.
func (p *play) fleet(ctx context.Context) error {
	p.chapter("A fleet of %d real kernels in QEMU, each with the real agent, behind HAProxy", p.Hosts)
	if _, err := p.exec(ctx, "lab", "up", "--dir", labDir, "--hosts", fmt.Sprint(p.Hosts), "--kernel", p.Kernel,
		"--publisher-key", "publisher.pub", "--mode", "observe"); err != nil {
		return err
	}
	l, err := lab.Open(p.file(labDir))
	if err != nil {
		return err
	}
	p.lab = l
	p.shell.env = append(p.shell.env, "AFLOAT_SOCKET="+l.ServerSocket())
	if err := until(ctx, time.Minute, "hosts to report", func() (bool, error) {
		err := p.ask(ctx, &p.hosts, "hosts")
		return err == nil && reported(p.hosts) == p.Hosts, err
	}); err != nil {
		return err
	}
	p.say("Agents join in observe: they report and never act. The operator raises them.")
	if _, err := p.exec(ctx, "hosts", "mode", "act", "--all"); err != nil {
		return err
	}
	if err := until(ctx, time.Minute, "hosts to act", func() (bool, error) {
		err := p.ask(ctx, &p.hosts, "hosts")
		return err == nil && acting(p.hosts) == p.Hosts, err
	}); err != nil {
		return err
	}
	if _, err := p.exec(ctx, "hosts"); err != nil {
		return err
	}
	_, err = p.exec(ctx, "bundle", "add", goodName+".afloat", badName+".afloat")
	return err
}

func reported(hosts []api.Host) (n int) {
	for _, h := range hosts {
		if h.Report != nil {
			n++
		}
	}
	return n
}

func acting(hosts []api.Host) (n int) {
	for _, h := range hosts {
		if h.Report != nil && h.Report.Mode == "act" {
			n++
		}
	}
	return n
}

// startLoad runs the meter until stop, which puts its counts into the result.
func (p *play) startLoad(ctx context.Context) (stop func() error, err error) {
	meter := p.lab.Meter(p.Rate)
	ctx, cancel := context.WithCancel(ctx)
	type outcome struct {
		load lab.Load
		err  error
	}
	done := make(chan outcome, 1) // one result, taken by stop
	go func() {
		load, err := meter.Run(ctx, 0)
		done <- outcome{load, err}
	}()
	p.meter = meter
	return func() error {
		cancel()
		o := <-done
		p.result.Requests, p.result.Failed = o.load.Requests, o.load.Failed
		p.sayLoad(o.load)
		return o.err
	}, nil
}

func (p *play) sayLoad(l lab.Load) {
	p.say("load: %d requests, %d failed, p50 %d ms, p99 %d ms, worst %d ms%s", l.Requests, l.Failed,
		l.P50.Milliseconds(), l.P99.Milliseconds(), l.Max.Milliseconds(), failures(l.Failures))
}

func failures(kinds map[string]int) string {
	var b strings.Builder
	for kind, n := range kinds {
		fmt.Fprintf(&b, ", %d %s", n, kind)
	}
	return b.String()
}

// goodFix rolls the fix out and looks on each host whether the new code runs.
func (p *play) goodFix(ctx context.Context) error {
	p.chapter("The fix goes out: canary first, then the rest")
	id, err := p.rollout(ctx, goodPolicy())
	if err != nil {
		return err
	}
	if p.Break == BreakCut {
		p.say("(broken on purpose: h%d loses its network)", p.Hosts)
		if err := p.lab.Hosts()[p.Hosts-1].Cut(ctx); err != nil {
			return err
		}
	}
	if _, err := p.exec(ctx, "rollout", "watch", id); err != nil {
		return err
	}
	p.say("Proof: what the kernels themselves say now")
	for _, h := range p.lab.Hosts() {
		out, err := p.exec(ctx, "lab", "exec", "--dir", labDir, h.Name, "--", "cat", "/proc/version")
		if err == nil && strings.Contains(out, proofLine) {
			p.result.Patched++
		}
	}
	p.sayLoad(p.meter.Snapshot())
	if err := p.ask(ctx, &p.hosts, "hosts"); err != nil {
		return err
	}
	p.result.ApplyP50 = applyP50(p.hosts)
	return nil
}
