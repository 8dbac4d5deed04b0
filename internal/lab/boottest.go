package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"afloat/internal/kernel"
)

const (
	bootTestMemoryMB = 512
	bootTestLimit    = 5 * time.Minute
)

// BootTest tries a live patch on its own kernel, in a guest of its own: first
// with the modules that it patches loaded, then once more with those loaded
// after it that can be unloaded.
type BootTest struct {
	Kernel Kernel
	Guest  string // path of the static lab-guest binary
	Patch  Life
	// Targets are the modules of the kernel that it patches.
	Targets []string
	// Functions is how many the kernel must redirect where every target loads.
	Functions int
}

// BootReport is what a boot test saw.
type BootReport struct {
	Lives []Lived // one, or two where Late is not empty
	// Unusable targets did not load in the guest, so that their functions were not redirected.
	Unusable []*InsertError
	// Late are the targets that were loaded after the live patch the second time.
	Late []string
	Took time.Duration // with the boot
}

// BootTestError says that the live patch failed, with the end of the kernel's console.
type BootTestError struct {
	Release, Why, Console string
}

func (e *BootTestError) Error() string {
	return fmt.Sprintf("the boot test on %s failed: %s\n%s", e.Release, e.Why, e.Console)
}

// Run runs the test. A live patch that fails, or takes the guest down, is a
// *BootTestError; every other error says nothing about the live patch.
func (b BootTest) Run(ctx context.Context) (report BootReport, err error) {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, bootTestLimit, fmt.Errorf("no end after %v", bootTestLimit))
	defer cancel()
	h, end, err := Trial{Kernel: b.Kernel, Guest: b.Guest, MemoryMB: bootTestMemoryMB}.Boot(ctx)
	if end != nil {
		defer func() { err = errors.Join(err, end(ctx)) }()
	}
	if err != nil {
		return report, fmt.Errorf("boot test: %w", err)
	}
	if err := b.lives(ctx, h, &report); err != nil {
		return report, b.explain(h, err)
	}
	report.Took = time.Since(began)
	return report, nil
}

func (b BootTest) explain(h *Host, err error) error {
	failed := &BootTestError{Release: b.Kernel.Release, Why: err.Error()}
	if life, ok := errors.AsType[*LifeError](err); ok {
		failed.Why, failed.Console = life.Why, life.Output
		return failed
	}
	if errors.Is(err, ErrRebooted) {
		failed.Why = "the kernel crashed"
	}
	log, readErr := h.ConsoleLog()
	if readErr != nil { // it booted, so there must be one
		return errors.Join(err, readErr)
	}
	log, _, _ = strings.Cut(log, "Rebooting in ") // what the next boot says is not the live patch's doing
	failed.Console = tail(log)
	return failed
}

// lives takes the live patch through one life, and a second one with its targets late.
func (b BootTest) lives(ctx context.Context, h *Host, report *BootReport) error {
	loaded, err := b.insertTargets(ctx, h, report)
	if err != nil {
		return err
	}
	if err := b.live(ctx, h, report, nil); err != nil {
		return err
	}
	if report.Late, err = h.Remove(ctx, loaded); err != nil || len(report.Late) == 0 {
		return err
	}
	return b.live(ctx, h, report, report.Late)
}

func (b BootTest) insertTargets(ctx context.Context, h *Host, report *BootReport) (loaded []string, err error) {
	order, err := b.targetOrder()
	if err != nil {
		return nil, err
	}
	for _, name := range order {
		err := h.Insert(ctx, name)
		if unusable, ok := errors.AsType[*InsertError](err); ok {
			report.Unusable = append(report.Unusable, unusable)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load %s: %w", name, err)
		}
		loaded = append(loaded, name)
	}
	return loaded, nil
}

// targetOrder is the targets, each after those of them that it depends on.
func (b BootTest) targetOrder() ([]string, error) {
	if len(b.Targets) == 0 {
		return nil, nil
	}
	tree, err := openModules(b.Kernel.ModulesDir)
	if err != nil {
		return nil, err
	}
	all, err := tree.loadOrder(b.Targets...)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(name string) bool {
		return !slices.ContainsFunc(b.Targets, func(target string) bool { return kernel.ModuleName(target) == name })
	}), nil
}

func (b BootTest) live(ctx context.Context, h *Host, report *BootReport, late []string) error {
	life := b.Patch
	life.Late = late
	lived, err := life.Run(ctx, h)
	if err != nil {
		return err
	}
	if len(report.Unusable) == 0 && lived.Redirected != b.Functions {
		return &LifeError{Why: fmt.Sprintf("the kernel redirected %d of %d functions", lived.Redirected, b.Functions), Output: tail(lived.Log)}
	}
	report.Lives = append(report.Lives, lived)
	return nil
}
