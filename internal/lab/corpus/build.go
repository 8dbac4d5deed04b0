package corpus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"afloat/internal/build"
	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/patch"
)

// fileLimit is how long one file may take: minutes mean that something hangs.
const fileLimit = 10 * time.Minute

// buildFile builds one file's change. The error is for what stops the run;
// what goes wrong with the file is in the result.
func (r *run) buildFile(ctx context.Context, file string) (Result, []byte, error) {
	result := Result{File: file}
	text, err := diff(ctx, r.Kit.Source(), r.after, file)
	if err != nil {
		return result, nil, err
	}
	in := build.Input{Name: file, Text: text}
	start := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, fileLimit, fmt.Errorf("took longer than %v", fileLimit))
	defer cancel()
	out, err := r.build(limited, in)
	result.BuildMS = time.Since(start).Milliseconds()
	if ctx.Err() != nil {
		return result, nil, context.Cause(ctx)
	}
	if err != nil {
		r.explain(limited, &result, in, err)
		return result, nil, nil
	}
	result.Outcome, result.Module, result.SHA256 = Built, out.Manifest.Module, digest(out.Module)
	result.Functions, result.NextBoot = len(out.Manifest.Functions), out.Manifest.Evidence.NextBoot
	for _, risk := range out.Manifest.Evidence.Risks {
		if risk.Kind == bundle.RiskStuck && !strings.HasPrefix(risk.Function, "vmlinux:") {
			result.Threads = append(result.Threads, risk.Function)
		}
	}
	for _, f := range out.Manifest.Functions {
		if !slices.Contains(result.Targets, f.Object) {
			result.Targets = append(result.Targets, f.Object)
		}
	}
	return result, out.Module, nil
}

// build is build.Build; a panic in it is a failure of this file alone.
func (r *run) build(ctx context.Context, in build.Input) (out *build.Output, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return build.Build(ctx, build.Options{
		Kit: r.Kit, Name: "corpus", Patches: []build.Input{in}, Key: r.key, Parallel: 1, Now: time.Now(), WorkDir: r.work,
	})
}

// explain sorts a build's error into an outcome.
func (r *run) explain(ctx context.Context, result *Result, in build.Input, err error) {
	if errors.Is(err, build.ErrUnchanged) {
		result.Outcome = Unchanged
		return
	}
	if refused, ok := errors.AsType[*elfdiff.RefusedError](err); ok {
		if r.hookless(in.Name) {
			result.Outcome, result.Detail = Hookless, refused.Refusals[0].String()
			return
		}
		result.Outcome, result.Refusals = Refused, refused.Refusals
		if result.refusedFor(elfdiff.ClassUncalled) {
			result.Outcome, result.Detail, result.Refusals = Alone, refused.Refusals[0].String(), nil
			return
		}
		if result.Code, err = r.changesCode(ctx, in); err != nil {
			result.Outcome, result.Detail = Failed, err.Error()
		}
		return
	}
	if c, ok := errors.AsType[*kbuild.CompileError](err); ok && c.Patched {
		result.Outcome, result.Detail = Alone, firstError(c.Output)
		return
	}
	result.Outcome, result.Detail = Failed, err.Error()
}

func (r *run) hookless(source string) bool {
	units, err := r.index.Units(source)
	return err == nil && len(units) > 0 && !slices.ContainsFunc(units, kbuild.Unit.Hooked)
}

// firstError is the first line in which a compiler says error.
func firstError(output string) string {
	for line := range strings.Lines(output) {
		if strings.Contains(line, "error:") {
			return strings.TrimSpace(line)
		}
	}
	return strings.TrimSpace(output)
}

// changesCode says whether a refused change reaches functions that run after
// boot, besides what was refused. The objects are in the kit's cache by now.
func (r *run) changesCode(ctx context.Context, in build.Input) (bool, error) {
	units, err := r.index.Units(in.Name)
	if _, ok := errors.AsType[*kbuild.RefusedError](err); ok {
		return true, nil // refused before anything was compiled
	}
	if err != nil {
		return false, err
	}
	work, err := os.MkdirTemp(r.work, "compare-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(work)
	files, err := r.patched(in)
	if err != nil {
		return false, err
	}
	pairs, err := (&kbuild.Builder{Kit: r.Kit, Parallel: 1}).Compile(ctx, work, units, files)
	if err != nil {
		return false, err
	}
	for _, p := range pairs {
		d, err := r.compare(p)
		if err != nil {
			return false, err
		}
		later, err := r.runsLater(p.Unit, d)
		if later || err != nil {
			return later, err
		}
	}
	return false, nil
}

func (r *run) patched(in build.Input) (map[string][]byte, error) {
	p, err := patch.Parse(in.Name, in.Text)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(r.Kit.Source())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	applied, err := patch.Apply(root.ReadFile, p)
	if err != nil {
		return nil, err
	}
	return applied.Files, nil
}

func (r *run) compare(p kbuild.Pair) (*elfdiff.Diff, error) {
	before, err := readObject(p.Original)
	if err != nil {
		return nil, err
	}
	after, err := readObject(p.Patched)
	if err != nil {
		return nil, err
	}
	return elfdiff.Compare(before, after, elfdiff.Options{Sizes: r.tables.Sizes})
}

// readObject reads an object whole: its source lines are read only when they are asked for.
func readObject(path string) (*elfdiff.Object, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return elfdiff.Read(bytes.NewReader(file))
}
