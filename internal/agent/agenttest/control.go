package agenttest

import (
	"context"
	"slices"
	"strings"
	"time"

	"afloat/internal/crash"
	"afloat/internal/kernel"
)

// Dir is the folder it lives in.
func (k *Kernel) Dir() string { return k.dir }

func (m *machine) reboot() {
	m.Boots++
	m.Booted = time.Now()
	m.Patches, m.Modules, m.Log = nil, nil, nil
}

// Reboot starts the next boot: everything loaded is gone. Kill or stop the
// host's agent first, or it will see the new boot while it runs.
func (k *Kernel) Reboot() error {
	return k.change(func(m *machine) error { m.reboot(); return nil })
}

// SetID makes it another kernel.
func (k *Kernel) SetID(id kernel.ID) error {
	return k.change(func(m *machine) error { m.ID = id; return nil })
}

// AddForeign loads a live patch that is not afloat's.
func (k *Kernel) AddForeign(name string) error {
	return k.change(func(m *machine) error {
		m.Modules = append(m.Modules, name)
		m.Patches = slices.Insert(m.Patches, 0, patch{Module: Module{Name: name}, Enabled: true})
		return nil
	})
}

// Loads returns every call of Load since the folder was made.
func (k *Kernel) Loads() (out []Load, err error) {
	err = k.change(func(m *machine) error { out = slices.Clone(m.Loads); return nil })
	return out, err
}

// Write appends lines to the kernel log.
func (k *Kernel) Write(text string) error {
	return k.change(func(m *machine) error {
		m.Log = append(m.Log, strings.Split(strings.TrimRight(text, "\n"), "\n")...)
		return nil
	})
}

// Follow delivers the kernel log of the present boot line by line until ctx ends: crash.Source.
func (k *Kernel) Follow(ctx context.Context, each func(crash.Line)) error {
	next, boot := 0, ""
	for ctx.Err() == nil {
		var lines []string
		err := k.change(func(m *machine) error {
			if m.boot() != boot {
				next, boot = 0, m.boot()
			}
			lines = slices.Clone(m.Log[min(next, len(m.Log)):])
			next = len(m.Log)
			return nil
		})
		if err != nil {
			return err
		}
		for _, l := range lines {
			each(crash.Line{Text: l})
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
	return nil
}
