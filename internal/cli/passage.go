package cli

import (
	"fmt"
	"os"

	"afloat/internal/bundle"
	"afloat/internal/converge"
)

// passage is how a host gets from another bundle to the one inspected, and back.
type passage struct {
	Name   string        `json:"name"`
	Digest bundle.Digest `json:"digest"`
	// There and Back say why it takes a moment without either of them; "" where
	// the kernel replaces one by the other in one step.
	There string `json:"there,omitempty"`
	Back  string `json:"back,omitempty"`
}

// readPassage compares a bundle with one that hosts may run.
func readPassage(path string, m *bundle.Manifest) (*passage, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	from, err := bundle.Decode(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if why := m.Kernel.Mismatch(from.Manifest.Kernel); why != "" {
		return nil, withHint(fmt.Errorf("cannot compare with %s: it is for another kernel: %s", path, why),
			"no host goes from one to the other: give a bundle for %s", m.Kernel.Release)
	}
	return &passage{
		Name: from.Manifest.Name, Digest: bundle.DigestOf(file),
		There: converge.TrailOf(&from.Manifest).Hinders(m), Back: converge.TrailOf(m).Hinders(&from.Manifest),
	}, nil
}

// lines says it for people.
func (p *passage) lines() []string {
	if p == nil {
		return nil
	}
	way := func(what, why string) string {
		if why == "" {
			return what + " in one step"
		}
		return what + " with a moment unpatched: " + why
	}
	return []string{way("from "+p.Name, p.There), way("back to "+p.Name, p.Back)}
}
