package cli

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/spf13/cobra"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kit"
)

// kernelMark in a path stands for the kernel's release.
const kernelMark = "%k"

// kernelTarget is one kernel to build for.
type kernelTarget struct {
	kernel, out, on string
}

// targets gives each kernel its paths, and refuses two kernels that write one file.
func (f buildFlags) targets() ([]kernelTarget, error) {
	var list []kernelTarget
	owner := map[string]string{}
	for _, arg := range f.kernels {
		ref, err := kit.ParseRef(arg)
		if err != nil {
			return nil, withHint(err, "`apt-cache search '^linux-image-6'` lists the kernels of the archive")
		}
		t := kernelTarget{kernel: arg, out: strings.ReplaceAll(f.out, kernelMark, ref.Release), on: strings.ReplaceAll(f.on, kernelMark, ref.Release)}
		if other, taken := owner[t.out]; taken {
			return nil, withHint(fmt.Errorf("cannot write the bundles of %s and %s to one file, %s", other, arg, t.out),
				"put %s, which stands for the kernel's release, into the path of -o", kernelMark)
		}
		owner[t.out] = arg
		list = append(list, t)
	}
	return list, nil
}

// outcome is how the build for one kernel ended.
type outcome struct {
	kernelTarget
	file     []byte
	manifest bundle.Manifest
	took     time.Duration
	err      error
}

// runMany builds for several kernels side by side. One that fails does not stop the others.
func (j buildJob) runMany(cmd *cobra.Command, targets []kernelTarget) error {
	cores := j.flags.jobs
	if cores <= 0 {
		cores = runtime.GOMAXPROCS(0)
	}
	atOnce := min(cores, len(targets))
	j.flags.jobs = max(1, cores/atOnce)
	errOut := &lockedWriter{w: cmd.ErrOrStderr()}
	cmd.SetErr(errOut)
	outcomes := make([]outcome, len(targets))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, t := range targets {
		group.Go(func() error {
			outcomes[i] = j.build(cmd, t, t.kernel+": ")
			return nil
		})
	}
	_ = group.Wait() // each error is in its outcome
	for _, o := range outcomes {
		if o.err != nil {
			report(errOut, fmt.Errorf("%s: %w", o.kernel, o.err))
		}
	}
	if err := outcomeTable(outcomes).write(cmd.OutOrStdout()); err != nil {
		return err
	}
	return worst(outcomes)
}

func outcomeTable(outcomes []outcome) table {
	t := table{head: []string{"KERNEL", "RESULT", "FUNCTIONS", "SECONDS", "BUNDLE", "DIGEST", "WHY"}}
	for _, o := range outcomes {
		seconds := fmt.Sprintf("%.1f", o.took.Seconds())
		if o.err != nil {
			t.add(o.kernel, resultWord(exitCode(o.err)), "-", seconds, "-", "-", shortly(o.err))
			continue
		}
		t.add(o.kernel, resultWord(0), fmt.Sprint(len(o.manifest.Functions)), seconds, o.out, string(bundle.DigestOf(o.file)), "")
	}
	return t
}

// shortly is an error in one line; all of it was reported before.
func shortly(err error) string {
	if r, ok := errors.AsType[*elfdiff.RefusedError](err); ok && len(r.Refusals) > 0 {
		why := r.Refusals[0].String()
		if more := len(r.Refusals) - 1; more > 0 {
			why += fmt.Sprintf("; and %d more", more)
		}
		return firstLine(why)
	}
	return firstLine(err.Error())
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// severity lists the exit codes of build, the worst first.
var severity = [...]int{1, exitSource, exitRefused, exitNothing, 0}

// worst returns an error with the worst exit code of all, or nil.
func worst(outcomes []outcome) error {
	rank, failed := len(severity)-1, 0
	for _, o := range outcomes {
		if o.err != nil {
			failed++
			rank = min(rank, max(0, slices.Index(severity[:], exitCode(o.err))))
		}
	}
	if failed == 0 {
		return nil
	}
	return &exitError{severity[rank], fmt.Errorf("no bundle for %d of %d kernels", failed, len(outcomes))}
}

func resultWord(code int) string {
	switch code {
	case 0:
		return "built"
	case exitRefused:
		return "refused"
	case exitNothing:
		return "nothing changed"
	case exitSource:
		return "source"
	}
	return "error"
}

// lockedWriter lets several builds write lines to one place.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
