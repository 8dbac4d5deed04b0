package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"afloat/internal/build"
	"afloat/internal/kit"
	"afloat/internal/lab"
)

// bootTest takes a draft through its life on its own kernel in QEMU, and adds
// what was seen to its evidence. A live patch that fails is a *lab.BootTestError.
func bootTest(ctx context.Context, k *kit.Kit, d *build.Draft, check []byte) error {
	guest, err := beside("lab-guest")
	if err != nil {
		return err
	}
	report, err := lab.BootTest{
		Kernel: lab.KernelOf(k), Guest: guest,
		Patch:   lab.Life{Name: d.Manifest.Module, Patch: d.Module, Check: check},
		Targets: patchedModules(d), Functions: len(d.Manifest.Functions),
	}.Run(ctx)
	if _, failed := errors.AsType[*lab.BootTestError](err); failed {
		return fmt.Errorf("cannot seal the bundle: %w", err)
	}
	if err != nil {
		return err
	}
	e := &d.Manifest.Evidence
	e.BootTest, e.LoadMS = bootSentences(k.Release(), report, check != nil), report.Lives[0].Load.Milliseconds()
	return nil
}

// patchedModules lists the modules of the kernel that the live patch changes.
func patchedModules(d *build.Draft) []string {
	var names []string
	for _, f := range d.Manifest.Functions {
		if f.Object != "vmlinux" && !slices.Contains(names, f.Object) {
			names = append(names, f.Object)
		}
	}
	return names
}

// bootSentences says what a boot test that went well saw.
func bootSentences(release string, r lab.BootReport, checked bool) []string {
	first := r.Lives[0]
	said := []string{
		fmt.Sprintf("%s in QEMU loaded the module, ended its transition, disabled and unloaded it without a kernel warning; %.1f s with the boot",
			release, r.Took.Seconds()),
		fmt.Sprintf("loading took %.2f s and the transition %.2f s, without hardware virtualisation; %s redirected, disk and network tried meanwhile and after",
			first.Load.Seconds(), first.Transition.Seconds(), counted(first.Redirected, "function")),
	}
	if checked {
		said = append(said, "the author's check script passed while the live patch was in effect")
	}
	for _, name := range r.Late {
		said = append(said, "module "+name+" was also loaded after the live patch, and patched then")
	}
	for _, u := range r.Unusable {
		said = append(said, "the guest has no use for module "+u.Module+", so that its functions were not redirected")
	}
	return said
}
