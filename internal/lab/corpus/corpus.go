package corpus

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kbuild"
	"afloat/internal/kit"
)

// Options say what to run.
type Options struct {
	// Kit of the kernel that is patched; its source is the version before.
	Kit *kit.Kit
	// Cache brings the source of the version after.
	Cache *kit.Cache
	// After is the version of the source package whose changes are built.
	After string
	// Sample of the files to take, by Seed; 0 takes all.
	Sample int
	Seed   uint64
	// Jobs is how many files are built at once, at least 1.
	Jobs int
	// Batch is how many modules are loaded in one guest.
	Batch int
	// Again builds what was refused or failed once more.
	Again bool
	// Guest is the path of the static lab-guest binary.
	Guest string
	// Dir keeps the results; a run with the same Dir goes on.
	Dir string
	// Progress is told of each result.
	Progress func(string)
}

// Report is what a run found.
type Report struct {
	Kernel, Before, After string
	Seed                  uint64
	// Differing is the number of files of the configuration that differ.
	Differing int
	Results   []Result
}

type run struct {
	Options
	after  string // folder of the newer source
	work   string
	store  store
	key    ed25519.PrivateKey
	index  *kbuild.Index
	tables kit.Tables
	broken map[string]string // targets that no guest can load, with the reason
	mu     sync.Mutex        // serialises Progress
}

// Run builds and loads the corpus. The error is for what stops the run.
func Run(ctx context.Context, o Options) (*Report, error) {
	r, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.work)
	files, err := differing(o.Kit.Source(), r.after, r.index.Sources())
	if err != nil {
		return nil, err
	}
	report := &Report{Kernel: o.Kit.Ref.String(), Before: o.Kit.Package, After: o.After, Seed: o.Seed, Differing: len(files)}
	files = sample(files, o.Sample, o.Seed)
	o.Progress(fmt.Sprintf("%d files differ, %d of them in this run", report.Differing, len(files)))
	for len(files) > 0 {
		n := min(max(1, o.Batch), len(files))
		if err := r.chunk(ctx, files[:n]); err != nil {
			return nil, err
		}
		for _, f := range files[:n] {
			result, _, err := r.store.get(f)
			if err != nil {
				return nil, err
			}
			report.Results = append(report.Results, result)
		}
		files = files[n:]
	}
	return report, nil
}

func prepare(ctx context.Context, o Options) (*run, error) {
	r := &run{Options: o, store: store{filepath.Join(o.Dir, "results")}, work: filepath.Join(o.Dir, "tmp"), broken: map[string]string{}}
	for _, dir := range []string{r.store.dir, r.work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("prepare corpus: %w", err)
		}
	}
	var err error
	if r.after, err = o.Cache.SourceTree(ctx, o.Kit.Ref, o.After); err != nil {
		return nil, err
	}
	if r.index, err = kbuild.LoadIndex(ctx, o.Kit, o.Progress); err != nil {
		return nil, err
	}
	if r.tables, err = o.Kit.Tables(); err != nil {
		return nil, err
	}
	// The bundles are thrown away, so the key lives only as long as the run.
	_, r.key, err = ed25519.GenerateKey(nil)
	return r, err
}

// chunk builds some files and loads what was built, as far as that is not done yet.
func (r *run) chunk(ctx context.Context, files []string) error {
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, r.Jobs))
	for _, f := range files {
		kept, ok, err := r.store.get(f)
		if err != nil {
			return err
		}
		if ok && !(r.Again && (kept.Outcome == Refused || kept.Outcome == Failed)) {
			continue
		}
		group.Go(func() error {
			result, module, err := r.buildFile(gctx, f)
			if err != nil {
				return err
			}
			r.tell(result)
			return r.store.put(result, module)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var todo []Result
	for _, f := range files {
		result, _, err := r.store.get(f)
		if err != nil {
			return err
		}
		if result.Outcome == Built && (result.Load == nil || r.Again && !result.Load.OK) {
			todo = append(todo, result)
		}
	}
	return r.loadBatch(ctx, todo)
}

// tell reports one result as a line.
func (r *run) tell(x Result) {
	line := fmt.Sprintf("%-9s %s (%.1f s)", x.Outcome, x.File, float64(x.BuildMS)/1000)
	switch {
	case x.Load != nil && x.Load.OK:
		line = fmt.Sprintf("%-9s %s: %s", "loaded", x.File, map[bool]string{true: "patching", false: x.Load.Detail}[x.Load.Patching])
	case x.Load != nil:
		line = fmt.Sprintf("%-9s %s: %s", "NOT LOADED", x.File, x.Load.Detail)
	case x.Outcome == Refused:
		line += fmt.Sprint(" ", x.classes(), " code=", x.Code)
		for _, f := range x.Refusals {
			line += "\n          " + f.String()
		}
	case x.Detail != "":
		line += "\n          " + x.Detail
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Progress(line)
}
