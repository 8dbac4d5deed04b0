package build

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/klpmod"
	"afloat/internal/patch"
)

// Earlier is a bundle that a new one takes up: its diffs come first.
type Earlier struct {
	Digest   bundle.Digest
	Manifest bundle.Manifest
}

// ReadEarlier decodes a bundle that one of the publishers signed. Its diffs
// become part of what is signed next, so a bundle by anybody else is refused:
// errors wrap bundle.ErrDamaged or bundle.ErrUnknownPublisher.
func ReadEarlier(file []byte, publishers ...ed25519.PublicKey) (*Earlier, error) {
	b, err := bundle.Decode(file)
	if err != nil {
		return nil, err
	}
	if _, err := b.Verify(publishers); err != nil {
		return nil, err
	}
	if len(b.Manifest.Sources) == 0 {
		return nil, fmt.Errorf("read bundle %s: it holds no diffs", b.Manifest.Name)
	}
	for _, s := range b.Manifest.Sources {
		if hexSum([]byte(s.Diff)) != s.SHA256 {
			return nil, fmt.Errorf("read bundle %s: diff %s is not the one whose hash it gives", b.Manifest.Name, s.Name)
		}
	}
	return &Earlier{Digest: bundle.DigestOf(file), Manifest: b.Manifest}, nil
}

// OtherKernelError says that an earlier bundle is for another kernel than the one to build for.
type OtherKernelError struct {
	Bundle     string
	Have, Want kernel.ID
}

func (e *OtherKernelError) Error() string {
	return fmt.Sprintf("cannot build on %s, which is for another kernel: %s", e.Bundle, e.Want.Mismatch(e.Have))
}

// ClashError says that a patch does not apply because of what a patch before it does.
type ClashError struct {
	*patch.ConflictError
	With    string // the patch before it
	Earlier bool   // With comes from the earlier bundle
}

func (e *ClashError) Error() string {
	from := ""
	if e.Earlier {
		from = " of the earlier bundle"
	}
	return fmt.Sprintf("%v; it conflicts with %s%s", e.ConflictError, e.With, from)
}

func (e *ClashError) Unwrap() error { return e.ConflictError }

// takeUp puts an earlier bundle's diffs and CVEs before the new ones, and keeps
// what it says of reboots.
func (o *Options) takeUp() error {
	if o.On == nil {
		return nil
	}
	m := o.On.Manifest
	if m.Kernel.Mismatch(o.Kit.ID) != "" {
		return &OtherKernelError{Bundle: m.Name, Have: m.Kernel, Want: o.Kit.ID}
	}
	var inputs []Input
	for _, s := range m.Sources {
		inputs = append(inputs, Input{Name: s.Name, Text: []byte(s.Diff)})
	}
	o.Patches = append(inputs, o.Patches...)
	cves := slices.Clone(m.CVEs)
	for _, cve := range o.CVEs {
		if !slices.Contains(cves, cve) {
			cves = append(cves, cve)
		}
	}
	o.CVEs, o.Reboot = cves, m.Reboot.Stricter(o.Reboot)
	return nil
}

// applyAll applies patches in order, and finds out which one a patch that does
// not fit conflicts with.
func (o *Options) applyAll(read func(string) ([]byte, error), patches []*patch.Patch) (*patch.Result, error) {
	result, err := patch.Apply(read, patches...)
	conflict, ok := errors.AsType[*patch.ConflictError](err)
	if !ok {
		return result, err
	}
	// The first end of a series that cannot be applied names the patch that
	// does not fit; names alone do not, because two may have the same one.
	bad := 0
	for bad+1 < len(patches) {
		if _, err := patch.Apply(read, patches[:bad+1]...); err != nil {
			break
		}
		bad++
	}
	for with := bad - 1; with >= 0; with-- {
		series := append(slices.Clone(patches[:with]), patches[bad])
		if _, err := patch.Apply(read, series...); err == nil {
			return nil, &ClashError{ConflictError: conflict, With: patches[with].Name,
				Earlier: o.On != nil && with < len(o.On.Manifest.Sources)}
		}
	}
	return nil, err
}

// takesOver refuses a live patch that the kernel would not let replace the
// earlier one, and notes which of the earlier one's callbacks will not undo what they did.
func (e *Earlier) takesOver(stats klpmod.Stats) (notes []string, err error) {
	var refusals []elfdiff.Refusal
	for _, s := range e.Manifest.States {
		i := slices.IndexFunc(stats.States, func(now klpmod.State) bool { return now.ID == s.ID })
		r := elfdiff.Refusal{Class: elfdiff.ClassAuthor, Symbol: fmt.Sprintf("state %#x", s.ID)}
		switch {
		case i < 0:
			r.Why = fmt.Sprintf("%s has it in version %d, and the diffs together have it no more", e.Manifest.Name, s.Version)
			r.Hint = "keep the state, in a higher version if what it stands for changes"
		case stats.States[i].Version < s.Version:
			r.Why = fmt.Sprintf("%s has it in version %d, above %d", e.Manifest.Name, s.Version, stats.States[i].Version)
			r.Source, r.Hint = stats.States[i].Source, "a state's version never goes down"
		default:
			continue
		}
		refusals = append(refusals, r)
	}
	if len(refusals) > 0 {
		return nil, &elfdiff.RefusedError{Refusals: refusals}
	}
	for _, c := range e.Manifest.Callbacks {
		kept := slices.ContainsFunc(stats.Callbacks, func(now klpmod.Callback) bool {
			return now.Object == c.Object && now.Kind.String() == c.Kind && now.Function == c.Function
		})
		if !kept && (c.Kind == elfdiff.PreUnpatch.String() || c.Kind == elfdiff.PostUnpatch.String()) {
			notes = append(notes, fmt.Sprintf("%s of %s, %s of %s, is no more: where this live patch replaces that one, nothing calls it",
				c.Function, e.Manifest.Name, c.Kind, c.Object))
		}
	}
	return notes, nil
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
