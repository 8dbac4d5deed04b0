package build

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/kit"
	"afloat/internal/risk"
)

// risksFile is in the kit's cache; its name changes with its format, and with
// what the notes say.
const risksFile = "risks-1.json.gz"

// readRisks reads what the shipped kernel's code tells about replacing its
// functions, while objects compile; once for each kernel out of the code itself.
func (b *builder) readRisks() error {
	file := filepath.Join(b.Kit.Cache(), risksFile)
	if kit.LoadGzip(file, &b.risks) == nil {
		return nil
	}
	f, err := os.Open(b.Kit.Vmlinux())
	if err != nil {
		return fmt.Errorf("read kernel: %w", err)
	}
	defer f.Close()
	code, err := risk.ReadVmlinux(f, b.tables.Kallsyms)
	if err != nil {
		return err
	}
	b.risks = code.NotesOf("vmlinux")
	if err := kit.StoreGzip(file, b.risks); err != nil {
		return fmt.Errorf("keep risks: %w", err)
	}
	return nil
}

// weigh adds to the manifest what a person should weigh before a rollout.
func (b *builder) weigh(m *bundle.Manifest, modules map[string]*kernel.Module) error {
	notes := map[string]risk.Notes{"vmlinux": b.risks}
	for name := range modules {
		object, err := b.shippedModule(name)
		if err != nil {
			return err
		}
		notes[name] = risk.ReadModule(name, object).NotesOf(name)
	}
	for _, f := range m.Functions {
		m.Evidence.Risks = append(m.Evidence.Risks, notes[f.Object].Of(f)...)
	}
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
	file, err := b.Kit.ModuleFile(name)
	if err != nil {
		return nil, err
	}
	object, err := elfdiff.Read(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", name, err)
	}
	return object, nil
}
