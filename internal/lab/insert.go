package lab

import (
	"context"
	"fmt"
	"strings"

	"afloat/internal/kernel"
)

// InsertError says that the guest cannot use a module, mostly for want of the hardware.
type InsertError struct {
	Module string
	Said   string
}

func (e *InsertError) Error() string { return e.Module + " does not load in the guest: " + e.Said }

// Insert loads a module of the guest's kernel, after those that it needs; one
// that is there already stays. Errors are an *InsertError where the guest lives on.
func (h *Host) Insert(ctx context.Context, name string) error {
	tree, err := openModules(h.Kernel.ModulesDir)
	if err != nil {
		return err
	}
	order, err := tree.loadOrder(name)
	if err != nil {
		return err
	}
	for _, name := range order {
		if err := h.insertOne(ctx, tree, name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) insertOne(ctx context.Context, tree moduleTree, name string) error {
	there, err := h.Exec(ctx, "test", "-e", "/sys/module/"+name)
	if err != nil || there.Code == 0 {
		return err
	}
	content, err := tree.read(name)
	if err != nil {
		return err
	}
	file := "/tmp/" + name + ".ko"
	if err := h.Put(ctx, file, 0o644, content); err != nil {
		return err
	}
	out, err := h.Exec(ctx, "sh", "-c", "insmod $1; code=$?; rm $1; exit $code", "load", file)
	if err != nil {
		return fmt.Errorf("load %s: %w", name, err)
	}
	if out.Code != 0 {
		return &InsertError{Module: name, Said: strings.TrimSpace(out.Output())}
	}
	return nil
}

// Remove unloads modules, the last first, and returns those that were, in the given order.
func (h *Host) Remove(ctx context.Context, names []string) ([]string, error) {
	var gone []string
	for i := len(names) - 1; i >= 0; i-- {
		out, err := h.Exec(ctx, "rmmod", kernel.ModuleName(names[i]))
		if err != nil {
			return nil, err
		}
		if out.Code == 0 {
			gone = append([]string{names[i]}, gone...)
		}
	}
	return gone, nil
}
