// Package demo plays afloat's main job on real kernels, by typing afloat's own
// commands: a fix reaches every host of a small fleet under traffic, then a bad
// fix stops itself at the canary. Every claim it prints at the end was measured.
package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"afloat/internal/api"
	"afloat/internal/lab"
)

// Break names something that the demo breaks on purpose, to show that its checks see it.
type Break string

const (
	// BreakNothing plays the demo as it is meant.
	BreakNothing Break = ""
	// BreakRevert stops the canary's agent by hand just before its patch must come off.
	BreakRevert Break = "revert"
	// BreakCut takes a guest's network away under load, without notice.
	BreakCut Break = "cut"
)

// Options of a demo.
type Options struct {
	Afloat string // path of the afloat binary
	Dir    string // folder for everything the demo makes
	Kernel string // debian:6.1.0-55-amd64; "" for the newest 6.1 that the archive offers
	Hosts  int
	Rate   float64 // requests per second
	Break  Break
	Out    io.Writer
	// Patience is how long the bad patch may take to come off.
	Patience time.Duration
	// Keep leaves the lab running at the end.
	Keep bool
}

// Result is what the last line says.
type Result struct {
	Hosts, Patched   int
	Requests, Failed int
	BadPatch         string
	Exposed          int
	ApplyP50         time.Duration
	Took             time.Duration
}

// String is the demo's last line.
func (r Result) String() string {
	return fmt.Sprintf("demo: hosts=%d patched=%d requests=%d failed=%d bad_patch=%s exposed=%d apply_ms_p50=%d seconds=%d",
		r.Hosts, r.Patched, r.Requests, r.Failed, r.BadPatch, r.Exposed, r.ApplyP50.Milliseconds(), int(r.Took.Seconds()))
}

// Check says what is not as it must be, or nothing.
func (r Result) Check() error {
	var wrong []string
	no := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if r.Patched != r.Hosts {
		no("%d of %d hosts run the fix", r.Patched, r.Hosts)
	}
	if r.Requests == 0 {
		no("no request was made")
	}
	if r.Failed != 0 {
		no("%d of %d requests failed", r.Failed, r.Requests)
	}
	if r.BadPatch != "reverted" {
		no("the bad patch is %s", r.BadPatch)
	}
	if r.Exposed != 1 {
		no("the bad patch reached %d hosts", r.Exposed)
	}
	if r.ApplyP50 <= 0 {
		no("no host said how long applying took")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("check demo: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// play is one run of the demo.
type play struct {
	Options
	*shell
	lab    *lab.Lab
	meter  *lab.Meter
	hosts  []api.Host // as last asked
	result Result
}

// Run plays the demo. The Result holds what was measured, also when an error says that it ended early.
func Run(ctx context.Context, opts Options) (Result, error) {
	start := time.Now()
	p := &play{Options: opts, shell: &shell{bin: opts.Afloat, env: os.Environ(), dir: opts.Dir, out: opts.Out}}
	p.result = Result{Hosts: opts.Hosts, BadPatch: "unknown"}
	err := p.run(ctx)
	p.result.Took = time.Since(start)
	return p.result, err
}

func (p *play) run(ctx context.Context) (err error) {
	if err := p.prepare(ctx); err != nil {
		return err
	}
	if !p.Keep {
		defer func() {
			// The lab must go even when ctx is over.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			if _, e := p.quiet(ctx, "lab", "down", "--dir", labDir); e != nil && err == nil {
				err = e
			}
		}()
	}
	if err := p.fleet(ctx); err != nil {
		return err
	}
	p.chapter("Traffic: %g requests a second through HAProxy, retries off, until the end", p.Rate)
	stop, err := p.startLoad(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if e := stop(); e != nil && err == nil {
			err = e
		}
	}()
	if err := p.goodFix(ctx); err != nil {
		return err
	}
	if err := p.badFix(ctx); err != nil {
		return err
	}
	p.chapter("Everything, on the record")
	_, err = p.exec(ctx, "audit", "--verify")
	return err
}
