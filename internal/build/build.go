// Package build makes a bundle from patches: it applies them to a kit's
// source, compiles the objects they touch before and after, compares them,
// proves that the originals are the code that the shipped kernel runs, links a
// livepatch module and seals it with the publisher's key.
package build

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/kit"
	"afloat/internal/patch"
	"afloat/internal/risk"
)

// Options say what to build.
type Options struct {
	Kit *kit.Kit
	// Name of the patch set, the same for every kernel.
	Name string
	CVEs []string
	// Reboot is how soon one must follow; an earlier bundle may want it sooner.
	Reboot bundle.Reboot
	// On, if set, is the bundle whose patches come before Patches.
	On *Earlier
	// Patches apply in order; the live patch holds all of them.
	Patches []Input
	Key     ed25519.PrivateKey
	// Signer, if set, signs the module itself, for kernels that want it.
	Signer *kbuild.ModuleKey
	// WorkDir is where temporary folders go; "" for the system's.
	WorkDir string
	// Parallel compilations; 0 means one per CPU.
	Parallel int
	// NoCache compiles everything anew.
	NoCache bool
	// Progress, if set, is told what begins, in words.
	Progress func(string)
	// Now is when the build began.
	Now time.Time
	// Since tells the time passed since Now; time.Since(Now) if nil.
	Since func() time.Duration
}

// Input is one diff.
type Input struct {
	Name string
	Text []byte
}

// Output is a finished build.
type Output struct {
	File     []byte // the bundle
	Manifest bundle.Manifest
	Module   []byte // the .ko inside it
	// Notes are what the operator should read, as sentences.
	Notes []string
}

// ErrUnchanged says that the patches change no code of the kernel.
var ErrUnchanged = errors.New("the patch changes nothing in the kernel's objects")

// ClassFile refuses a touched file by its path or kind, before compiling.
const ClassFile elfdiff.Class = "file"

// Build makes a bundle. Errors that callers tell apart: ErrUnchanged;
// *elfdiff.RefusedError, what cannot be live patched; *patch.ConflictError, a
// diff that does not apply, and within a *ClashError where an earlier one is
// the reason; *OtherKernelError; *kbuild.CompileError.
func Build(ctx context.Context, o Options) (*Output, error) {
	d, err := Make(ctx, o)
	if err != nil {
		return nil, err
	}
	return d.Seal(o.Key)
}

// Draft is a finished live patch that nobody has signed yet.
type Draft struct {
	Manifest bundle.Manifest
	Module   []byte
}

// Seal signs the draft into a bundle.
func (d *Draft) Seal(key ed25519.PrivateKey) (*Output, error) {
	file, err := bundle.Seal(key, d.Manifest, d.Module)
	if err != nil {
		return nil, err
	}
	sealed, err := bundle.Decode(file)
	if err != nil {
		return nil, err
	}
	return &Output{File: file, Manifest: sealed.Manifest, Module: d.Module, Notes: d.Manifest.Evidence.Notes}, nil
}

// Make is Build without the last step, so that the live patch can be tried
// before it is signed. It needs no Key.
func Make(ctx context.Context, o Options) (*Draft, error) {
	if err := o.takeUp(); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(o.WorkDir, "afloat-build-")
	if err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	defer os.RemoveAll(work)
	b := &builder{Options: o, work: work}
	if b.Progress == nil {
		b.Progress = func(string) {}
	}
	if b.Since == nil {
		b.Since = func() time.Duration { return time.Since(o.Now) }
	}
	return b.build(ctx)
}

type builder struct {
	Options
	work    string
	applied *patch.Result
	units   []kbuild.Unit
	tables  kit.Tables
	risks   risk.Notes // of vmlinux
	parts   []*part
	notes   []string
}

// part is one recompiled object.
type part struct {
	pair     kbuild.Pair
	diff     *elfdiff.Diff
	evidence []string
}

func (b *builder) build(ctx context.Context) (*Draft, error) {
	if err := b.apply(); err != nil {
		return nil, err
	}
	if err := b.plan(ctx); err != nil {
		return nil, err
	}
	if err := b.compile(ctx); err != nil {
		return nil, err
	}
	if err := b.compare(ctx); err != nil {
		return nil, err
	}
	return b.link(ctx)
}

// apply parses the patches and applies them to the kit's source, in memory.
func (b *builder) apply() error {
	b.Progress(fmt.Sprintf("applying patches (%d)", len(b.Patches)))
	var patches []*patch.Patch
	for _, in := range b.Patches {
		p, err := patch.Parse(in.Name, in.Text)
		if err != nil {
			return &patch.ConflictError{Patch: in.Name, File: "the diff itself", Why: err.Error()}
		}
		patches = append(patches, p)
	}
	root, err := os.OpenRoot(b.Kit.Source())
	if err != nil {
		return fmt.Errorf("open source: %w", err)
	}
	defer root.Close()
	b.applied, err = b.applyAll(root.ReadFile, patches)
	if err != nil {
		return err
	}
	b.notes = append(b.notes, b.applied.Notes...)
	return nil
}

// plan finds the objects to compile, or refuses.
func (b *builder) plan(ctx context.Context) error {
	sources := b.applied.Sort()
	for _, p := range sources.Ignored {
		b.notes = append(b.notes, p+" is no part of the running kernel and was left out")
	}
	if len(sources.Refusals) > 0 {
		return &elfdiff.RefusedError{Refusals: fileRefusals(sources.Refusals)}
	}
	index, err := kbuild.LoadIndex(ctx, b.Kit, b.Progress)
	if err != nil {
		return err
	}
	included := sources.Headers
	var unbuilt []elfdiff.Refusal
	for _, source := range sources.Compile {
		units, err := index.Units(source)
		if refused, ok := errors.AsType[*kbuild.RefusedError](err); ok {
			// Some C files are only ever included by others.
			included = append(included, source)
			unbuilt = append(unbuilt, elfdiff.Refusal{Class: ClassFile, Symbol: source, Why: refused.Why,
				Hint: "leave the file out of the patch if this kernel does not need it"})
			continue
		}
		if err != nil {
			return err
		}
		b.units = append(b.units, units...)
	}
	if err := b.addIncluders(ctx, index, included, unbuilt); err != nil {
		return err
	}
	if len(b.units) == 0 {
		return ErrUnchanged
	}
	return b.refuseHookless()
}

// refuseHookless refuses a patch of which no object has entry hooks, before
// anything is compiled: nothing in it could be redirected. Its callbacks could
// still be called.
func (b *builder) refuseHookless() error {
	var refusals []elfdiff.Refusal
	for _, u := range b.units {
		if u.Hooked() || bytes.Contains(b.applied.Files[u.Source], []byte("afloat-patch.h")) {
			return nil
		}
		refusals = append(refusals, elfdiff.Refusal{Class: elfdiff.ClassNoHook, Symbol: u.Source,
			Why:  "the kernel builds this file without entry hooks, so nothing in it can be redirected",
			Hint: "change the functions of other files that call it instead, or leave the change to the next kernel"})
	}
	return &elfdiff.RefusedError{Refusals: refusals}
}

// addIncluders adds the objects whose sources include a changed file and differ
// by it. A C file that nothing is built from and nothing includes is refused.
func (b *builder) addIncluders(ctx context.Context, index *kbuild.Index, included []string, unbuilt []elfdiff.Refusal) error {
	if len(included) == 0 {
		return nil
	}
	graph, err := kbuild.LoadIncludes(ctx, b.Kit, index, b.Progress)
	if err != nil {
		return err
	}
	var refusals []elfdiff.Refusal
	for _, r := range unbuilt {
		if len(graph.Users(index, []string{r.Symbol})) == 0 {
			refusals = append(refusals, r)
		}
	}
	if len(refusals) > 0 {
		return &elfdiff.RefusedError{Refusals: refusals}
	}
	b.Progress("finding the objects that the changed headers reach")
	units, err := b.compiler().Affected(ctx, index, graph, included, b.units, b.work, b.applied.Files, b.Progress)
	if many, ok := errors.AsType[*kbuild.TooManyError](err); ok {
		return &elfdiff.RefusedError{Refusals: []elfdiff.Refusal{{Class: ClassFile, Symbol: strings.Join(many.Files, ", "),
			Why:  many.Why(),
			Hint: "repeat the changed definition, under another name, in the C files that need it"}}}
	}
	b.units = append(b.units, units...)
	return err
}

func fileRefusals(refusals []patch.Refusal) []elfdiff.Refusal {
	var out []elfdiff.Refusal
	for _, r := range refusals {
		out = append(out, elfdiff.Refusal{Class: ClassFile, Symbol: r.Path, Why: r.Why, Hint: r.Hint})
	}
	return out
}

func (b *builder) compiler() *kbuild.Builder {
	return &kbuild.Builder{Kit: b.Kit, Parallel: b.Parallel, NoCache: b.NoCache}
}

// compile makes both objects of each unit, and reads the kernel's tables meanwhile.
func (b *builder) compile(ctx context.Context) error {
	b.Progress(fmt.Sprintf("compiling objects (%d) before and after", len(b.units)))
	group, ctx := errgroup.WithContext(ctx)
	var pairs []kbuild.Pair
	group.Go(func() (err error) {
		pairs, err = b.compiler().Compile(ctx, b.work, b.units, b.applied.Files)
		return err
	})
	group.Go(func() (err error) {
		if b.tables, err = b.Kit.Tables(); err != nil {
			return err
		}
		return b.readRisks()
	})
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range pairs {
		b.parts = append(b.parts, &part{pair: p})
	}
	return nil
}

// compare diffs each pair of objects and keeps those that differ.
func (b *builder) compare(ctx context.Context) error {
	b.Progress("comparing objects")
	if err := b.compareParts(nil); err != nil {
		return err
	}
	if err := b.widen(ctx); err != nil {
		return err
	}
	elfdiff.SettleBoot(b.diffs())
	var differ []*part
	var refusals []elfdiff.Refusal
	for _, p := range b.parts {
		refusals = append(refusals, p.diff.Refusals...)
		if p.diff.Empty() {
			b.notes = append(b.notes, p.pair.Unit.Object+" is the same before and after")
			continue
		}
		differ = append(differ, p)
	}
	if len(refusals) == 0 {
		refusals = elfdiff.Uncalled(b.diffs())
	}
	b.parts = differ
	switch {
	case len(refusals) > 0:
		return &elfdiff.RefusedError{Refusals: refusals}
	case len(differ) == 0:
		return ErrUnchanged
	}
	return nil
}

// compareParts compares every part, with the functions whose callers are to be replaced.
func (b *builder) compareParts(unhooked []string) error {
	var group errgroup.Group
	group.SetLimit(max(1, b.compiler().Jobs()))
	for _, p := range b.parts {
		group.Go(func() error {
			o := elfdiff.Options{Sizes: b.tables.Sizes, BuiltIn: p.pair.Unit.Target() == "vmlinux"}
			if o.BuiltIn {
				o.Unhooked = unhooked
			}
			return p.compare(o)
		})
	}
	return group.Wait()
}

func (b *builder) diffs() []*elfdiff.Diff {
	var out []*elfdiff.Diff
	for _, p := range b.parts {
		out = append(out, p.diff)
	}
	return out
}

func (p *part) compare(o elfdiff.Options) error {
	original, err := readObject(p.pair.Original)
	if err != nil {
		return fmt.Errorf("read original %s: %w", p.pair.Unit.Object, err)
	}
	patched, err := readObject(p.pair.Patched)
	if err != nil {
		return fmt.Errorf("read patched %s: %w", p.pair.Unit.Object, err)
	}
	if p.diff, err = elfdiff.Compare(original, patched, o); err != nil {
		return fmt.Errorf("compare %s: %w", p.pair.Unit.Object, err)
	}
	return p.compareTypes()
}

// compareTypes adds what speaks against the patched types to the diff. An
// object without a difference in its code is not loaded, whatever its types.
func (p *part) compareTypes() error {
	if len(p.diff.Changed)+len(p.diff.New) == 0 {
		return nil
	}
	original, err := os.Open(p.pair.Original)
	if err != nil {
		return err
	}
	defer original.Close()
	patched, err := os.Open(p.pair.Patched)
	if err != nil {
		return err
	}
	defer patched.Close()
	if err := p.diff.AddTypes(original, patched); err != nil {
		return fmt.Errorf("compare types of %s: %w", p.pair.Unit.Source, err)
	}
	for _, w := range p.diff.IdleWaivers() {
		p.diff.Notes = append(p.diff.Notes, fmt.Sprintf("%s:%d sets aside %s, of which nothing was in the way", p.pair.Unit.Source, w.Line, w.Of))
	}
	return nil
}

// readObject reads an object whole: its source lines are read only when they are asked for.
func readObject(path string) (*elfdiff.Object, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return elfdiff.Read(bytes.NewReader(file))
}
