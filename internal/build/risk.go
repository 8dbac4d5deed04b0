package build

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/risk"
)

// readCode reads who calls whom in the shipped kernel, while objects compile.
func (b *builder) readCode() error {
	f, err := os.Open(b.Kit.Vmlinux())
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	defer f.Close()
	b.code, err = risk.ReadVmlinux(f, b.tables.Kallsyms)
	return err
}

// weigh adds to the manifest what a person should weigh before a rollout.
func (b *builder) weigh(m *bundle.Manifest, modules map[string]*kernel.Module) error {
	for _, name := range slices.Sorted(maps.Keys(modules)) {
		object, err := b.shippedModule(name)
		if err != nil {
			return err
		}
		b.code.AddModule(name, object)
	}
	m.Evidence.Risks = b.code.Notes(m.Functions)
	config, err := os.Open(b.Kit.Config())
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	defer config.Close()
	patching, err := risk.ReadConfig(config)
	if err != nil {
		return err
	}
	m.Evidence.LivePatching = patching.String()
	m.Evidence.Risks = append(m.Evidence.Risks, patching.Risks()...)
	return nil
}

func (b *builder) shippedModule(name string) (*elfdiff.Object, error) {
	path, err := b.Kit.Module(name)
	if err != nil {
		return nil, err
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read module: %w", err)
	}
	file, err := kernel.Decompress(packed)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	object, err := elfdiff.Read(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	return object, nil
}
