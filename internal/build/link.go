package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/kernel"
	"afloat/internal/klpmod"
	"afloat/internal/proof"
)

// link proves the originals and links the module.
func (b *builder) link(ctx context.Context) (*Draft, error) {
	b.Progress("proving that the originals are the shipped code")
	targets, modules, err := b.prove(ctx)
	if err != nil {
		return nil, err
	}
	b.Progress("linking")
	retpoline, err := b.retpoline()
	if err != nil {
		return nil, err
	}
	id, idAddr, err := b.buildID()
	if err != nil {
		return nil, err
	}
	name, module, stats, err := b.linkNamed(klpmod.Spec{
		Targets: targets,
		Kernel: klpmod.Kernel{
			Sizes: b.tables.Sizes, Kallsyms: b.tables.Kallsyms, Symvers: b.tables.Symvers, Sealed: b.tables.Sealed,
			Modules: modules, Vermagic: b.Kit.Vermagic, Retpoline: retpoline,
			BuildID: id, BuildIDAddr: idAddr,
		},
	})
	if err != nil {
		return nil, err
	}
	if b.On != nil {
		notes, err := b.On.takesOver(stats)
		if err != nil {
			return nil, err
		}
		b.notes = append(b.notes, notes...)
	}
	if module, err = b.sign(ctx, module); err != nil {
		return nil, err
	}
	m := b.manifest(name, stats)
	if err := b.weigh(&m, modules); err != nil {
		return nil, err
	}
	return &Draft{Manifest: m, Module: module}, nil
}

// sign signs the module for kernels that want it, where a key was given.
func (b *builder) sign(ctx context.Context, module []byte) ([]byte, error) {
	if b.Signer == nil {
		return module, nil
	}
	subject, err := b.Signer.Check()
	if err != nil {
		return nil, err
	}
	b.notes = append(b.notes, "the module itself is signed by "+subject+", for kernels that trust that certificate")
	return kbuild.Sign(ctx, b.Kit, *b.Signer, module)
}

// prove checks every differing original against the shipped vmlinux or module
// and sorts the parts by what they are linked into.
func (b *builder) prove(ctx context.Context) ([]klpmod.Target, map[string]*kernel.Module, error) {
	var (
		targets  []klpmod.Target
		refusals []elfdiff.Refusal
		modules  = map[string]*kernel.Module{}
	)
	for _, object := range b.objects() {
		img, done, err := b.image(object, modules)
		if err != nil {
			return nil, nil, err
		}
		target := klpmod.Target{Object: object}
		for _, p := range b.parts {
			if p.pair.Unit.Target() != object {
				continue
			}
			result, err := b.check(ctx, img, p)
			if err != nil {
				done()
				return nil, nil, err
			}
			refusals = append(refusals, result.Refusals...)
			p.evidence = result.Evidence
			target.Parts = append(target.Parts, klpmod.Part{Source: p.pair.Unit.Source, Diff: p.diff, Places: result.Places})
		}
		done()
		targets = append(targets, target)
	}
	if len(refusals) > 0 {
		return nil, nil, &elfdiff.RefusedError{Refusals: refusals}
	}
	return targets, modules, nil
}

// objects lists what the parts are linked into: vmlinux first, then modules by name.
func (b *builder) objects() []string {
	var out []string
	for _, p := range b.parts {
		if t := p.pair.Unit.Target(); !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(x, y string) int {
		switch {
		case x == "vmlinux":
			return -1
		case y == "vmlinux":
			return 1
		}
		return strings.Compare(x, y)
	})
	return out
}

// image opens the shipped object; done closes it. A module is added to modules.
func (b *builder) image(object string, modules map[string]*kernel.Module) (img *proof.Image, done func(), err error) {
	if object == "vmlinux" {
		f, err := os.Open(b.Kit.Vmlinux())
		if err != nil {
			return nil, nil, fmt.Errorf("read kernel: %w", err)
		}
		img, err := proof.Vmlinux(f, b.tables.Kallsyms)
		if err != nil {
			f.Close()
			return nil, nil, err
		}
		return img, func() { f.Close() }, nil
	}
	path, err := b.Kit.Module(object)
	if err != nil {
		return nil, nil, err
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read module: %w", err)
	}
	if modules[object], err = b.Kit.ReadModule(object); err != nil {
		return nil, nil, err
	}
	img, err = proof.Module(file, modules[object])
	return img, func() {}, err
}

// check compares one original with the shipped code. Where it differs, the
// object is compiled once more exactly as the kernel's build does, because the
// sections of its own for each function can change a jump's length.
func (b *builder) check(ctx context.Context, img *proof.Image, p *part) (*proof.Result, error) {
	in := proof.Input{Source: p.pair.Unit.Source, Diff: p.diff}
	result := img.Check(in)
	if len(result.Refusals) == 0 {
		return result, nil
	}
	b.Progress("compiling " + p.pair.Unit.Source + " as the kernel's build did, to compare")
	path, err := b.compiler().Plain(ctx, b.work, p.pair.Unit)
	if err != nil {
		return nil, err
	}
	if in.Plain, err = readObject(path); err != nil {
		return nil, fmt.Errorf("read %s: %w", p.pair.Unit.Object, err)
	}
	return img.Check(in), nil
}

// retpoline says whether the kernel's modules declare that they were built with retpolines.
func (b *builder) retpoline() (bool, error) {
	names := slices.Sorted(maps.Keys(b.Kit.Modules))
	if len(names) == 0 {
		return false, errors.New("read modules: the kernel ships none")
	}
	m, err := b.Kit.ReadModule(names[0])
	if err != nil {
		return false, err
	}
	return m.Retpoline, nil
}

// hashDigits of a module's own hash stand in its name.
const hashDigits = 10

var notIdent = regexp.MustCompile(`[^A-Za-z0-9_]+`)

// linkNamed links the module under a name that holds a hash of its own content,
// so that a host can load a live patch while an earlier one of the same patch
// set is still there, and the same content always has the same name.
func (b *builder) linkNamed(spec klpmod.Spec) (string, []byte, klpmod.Stats, error) {
	stem := fmt.Sprintf("afloat_%.36s_", notIdent.ReplaceAllString(b.Name, "_"))
	spec.Name = stem + strings.Repeat("0", hashDigits)
	draft, _, err := klpmod.Link(spec)
	if err != nil {
		return "", nil, klpmod.Stats{}, err
	}
	sum := sha256.Sum256(draft)
	spec.Name = stem + hex.EncodeToString(sum[:])[:hashDigits]
	module, stats, err := klpmod.Link(spec)
	return spec.Name, module, stats, err
}

func (b *builder) manifest(module string, stats klpmod.Stats) bundle.Manifest {
	m := bundle.Manifest{
		Kind: bundle.KindLive, Name: b.Name, CVEs: b.CVEs, Reboot: b.Reboot, Kernel: b.Kit.ID, Module: module, Replace: true,
		KlpSymbols: stats.KlpSymbols, Created: b.Now.UTC().Truncate(1e9),
		Evidence: bundle.Evidence{
			Kit: b.Kit.Exact(), Compiler: b.Kit.CompilerText, BuildMS: b.Since().Milliseconds(),
			Notes: slices.Concat(b.Kit.Notes, b.notes, stats.Notes),
		},
	}
	if b.On != nil {
		m.On = b.On.Digest
	}
	for _, f := range stats.Functions {
		m.Functions = append(m.Functions, bundle.Function{Object: f.Object, Name: f.Name, Sympos: f.Sympos})
	}
	for _, c := range stats.Callbacks {
		m.Callbacks = append(m.Callbacks, bundle.Callback{Object: c.Object, Kind: c.Kind.String(), Function: c.Function, Source: c.Source})
	}
	for _, s := range stats.States {
		m.States = append(m.States, bundle.State{ID: s.ID, Version: s.Version})
	}
	for _, in := range b.Patches {
		m.Sources = append(m.Sources, bundle.Source{Name: in.Name, SHA256: hexSum(in.Text), Diff: string(in.Text)})
	}
	for _, p := range b.parts {
		m.Evidence.Objects = append(m.Evidence.Objects, p.pair.Unit.Object)
		m.Evidence.Proof = append(m.Evidence.Proof, p.evidence...)
		m.Evidence.Notes = append(m.Evidence.Notes, p.diff.Notes...)
		for _, f := range p.diff.NextBoot {
			m.Evidence.NextBoot = append(m.Evidence.NextBoot, f.Name)
		}
		m.Waivers = append(m.Waivers, p.waivers()...)
	}
	return m
}

// waivers are what the author set aside in the part's file.
func (p *part) waivers() []bundle.Waiver {
	var out []bundle.Waiver
	for _, w := range p.diff.Waivers {
		out = append(out, bundle.Waiver{Kind: string(w.Kind), Of: w.Of, Reason: w.Reason, Source: fmt.Sprintf("%s:%d", p.pair.Unit.Source, w.Line)})
	}
	return out
}

// buildID is the kernel's build id and where the running kernel keeps it.
func (b *builder) buildID() ([]byte, uint64, error) {
	f, err := os.Open(b.Kit.Vmlinux())
	if err != nil {
		return nil, 0, fmt.Errorf("read kernel: %w", err)
	}
	defer f.Close()
	return kernel.ReadBuildIDNote(f)
}
