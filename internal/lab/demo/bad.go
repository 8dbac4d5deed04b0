package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/lab"
)

// goodPolicy: one canary, then everybody. Soaks are short because this is a demo.
func goodPolicy() string {
	return policyFor(goodName, "10s")
}

// badPolicy soaks the canary long enough for its first user to come by.
func badPolicy() string {
	return policyFor(badName, "10m")
}

func policyFor(name, soak string) string {
	return fmt.Sprintf(`name: %s
target: {live: %s}
waves:
  - {name: canary, size: 1, soak: %s}
  - {name: everybody, size: 100%%, soak: 5s}
gate:
  crashes: {cap: {excess: 1/1000, within: 24h}}
  onInconclusive: continue   # three hosts can never be proof; the cap and the hard rules still stand
  onRevert: revert
budgets:
  - {name: service, unavailable: 1}
`, name, name, soak)
}

// rollout writes the policy to a file, starts it and returns its id.
func (p *play) rollout(ctx context.Context, text string) (string, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(text, "name: "), "\n")
	file := p.file(name + ".yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write policy: %w", err)
	}
	p.say("%s.yaml:\n    %s", name, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    "))
	if _, err := p.exec(ctx, "rollout", "start", name+".yaml"); err != nil {
		return "", err
	}
	var all []api.Rollout
	if err := p.ask(ctx, &all, "rollout", "list"); err != nil {
		return "", err
	}
	for _, r := range slices.Backward(all) {
		if r.Name == name {
			return r.ID, nil
		}
	}
	return "", fmt.Errorf("find rollout %s: not in the list", name)
}

// badFix rolls out a patch that oopses when somebody uses it, uses it on the
// canary, and watches the rollout stop and take it off again by itself.
func (p *play) badFix(ctx context.Context) error {
	p.chapter("A bad fix: it compiles, loads and soaks; whoever opens /proc/kmsg dies of a kernel oops")
	digest, module, err := p.inspect(ctx, p.file(badName+".afloat"))
	if err != nil {
		return err
	}
	id, err := p.rollout(ctx, badPolicy())
	if err != nil {
		return err
	}
	canary, err := p.waitRunning(ctx, digest)
	if err != nil {
		return err
	}
	if p.Break == BreakRevert {
		p.say("(broken on purpose: %s is told to stop acting)", canary.Name)
		if _, err := canary.Run(ctx, "touch", "/etc/afloat/stop"); err != nil {
			return err
		}
	}
	p.say("%s is the canary. A process there opens the file:", canary.Name)
	if err := p.fails(ctx, "lab", "exec", "--dir", labDir, canary.Name, "--", "head", "-c1", "/proc/kmsg"); err != nil {
		return err
	}
	watch, cancel := context.WithTimeout(ctx, p.Patience)
	defer cancel()
	// The exit code of watch tells of a rollout that did not end well; so it must here.
	if err := p.fails(watch, "rollout", "watch", id); err != nil {
		p.say("%v", err)
	}
	if err := p.judgeBad(ctx, id, module); err != nil {
		return err
	}
	if _, err := p.exec(ctx, "rollout", "status", id); err != nil {
		return err
	}
	_, err = p.exec(ctx, "hosts")
	return err
}

// inspect asks what a bundle holds.
func (p *play) inspect(ctx context.Context, file string) (bundle.Digest, string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("read bundle: %w", err)
	}
	b, err := bundle.Decode(data)
	if err != nil {
		return "", "", err
	}
	return bundle.DigestOf(data), b.Manifest.Module, nil
}

// waitRunning waits until a host says that it runs the bundle.
func (p *play) waitRunning(ctx context.Context, digest bundle.Digest) (*lab.Host, error) {
	var name string
	err := until(ctx, 2*time.Minute, "a canary", func() (bool, error) {
		if err := p.ask(ctx, &p.hosts, "hosts"); err != nil {
			return false, err
		}
		for _, h := range p.hosts {
			if runs(h, digest) && h.Report.Phase == "applied" {
				name = h.Name
			}
		}
		return name != "", nil
	})
	if err != nil {
		return nil, err
	}
	return p.lab.Host(name)
}

func runs(h api.Host, digest bundle.Digest) bool {
	if h.Report == nil {
		return false
	}
	for _, l := range h.Report.Live {
		if l.Bundle == digest && l.Enabled {
			return true
		}
	}
	return false
}

// judgeBad asks the kernels, not the server: their own logs say who ever
// enabled the module, their sysfs who still has it, /proc/version whether the
// earlier fix is back.
func (p *play) judgeBad(ctx context.Context, id, module string) error {
	var still, lost []string
	p.result.Exposed = 0
	for _, h := range p.lab.Hosts() {
		log, err := h.ConsoleLog()
		if err != nil {
			return err
		}
		if strings.Contains(log, "enabling patch '"+module+"'") {
			p.result.Exposed++
		}
		has, err := h.Exec(ctx, "test", "-e", "/sys/module/"+module)
		if err != nil {
			return err
		}
		if has.Code == 0 {
			still = append(still, h.Name)
		}
		version, err := h.Run(ctx, "cat", "/proc/version")
		if err != nil {
			return err
		}
		if !strings.Contains(version, proofLine) {
			lost = append(lost, h.Name)
		}
	}
	var r api.Rollout
	if err := p.ask(ctx, &r, "rollout", "status", id); err != nil {
		return err
	}
	switch {
	case len(still) > 0:
		p.result.BadPatch = "loaded-on-" + strings.Join(still, "+")
	case len(lost) > 0:
		p.result.BadPatch = "fix-lost-on-" + strings.Join(lost, "+")
	case r.State != "reverted":
		p.result.BadPatch = "rollout-" + r.State
	default:
		p.result.BadPatch = "reverted"
		p.say("The bad patch reached %d host and is off again; the fix from before is back on it.", p.result.Exposed)
	}
	return nil
}

// applyP50 is the median time that the hosts took to load and switch over.
func applyP50(hosts []api.Host) time.Duration {
	var took []int64
	for _, h := range hosts {
		if h.Report != nil && h.Report.ApplyMS > 0 {
			took = append(took, h.Report.ApplyMS)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return time.Duration(took[(len(took)-1)/2]) * time.Millisecond
}

func (p *play) file(name string) string { return filepath.Join(p.Dir, name) }
