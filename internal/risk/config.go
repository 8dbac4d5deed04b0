package risk

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"afloat/internal/bundle"
)

// Patching is what a kernel's configuration has for live patching.
type Patching struct {
	Livepatch bool   // CONFIG_LIVEPATCH
	Reliable  bool   // CONFIG_HAVE_RELIABLE_STACKTRACE
	Unwinder  string // "" if it is not known
}

// ReadConfig reads a kernel's .config.
func ReadConfig(r io.Reader) (Patching, error) {
	var p Patching
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		switch strings.TrimSpace(in.Text()) {
		case "CONFIG_LIVEPATCH=y":
			p.Livepatch = true
		case "CONFIG_HAVE_RELIABLE_STACKTRACE=y":
			p.Reliable = true
		case "CONFIG_UNWINDER_ORC=y":
			p.Unwinder = "ORC"
		case "CONFIG_UNWINDER_FRAME_POINTER=y":
			p.Unwinder = "frame pointers"
		case "CONFIG_UNWINDER_GUESS=y":
			p.Unwinder = "guessing"
		}
	}
	if err := in.Err(); err != nil {
		return p, fmt.Errorf("read config: %w", err)
	}
	return p, nil
}

// String is one sentence.
func (p Patching) String() string {
	words := []string{"CONFIG_LIVEPATCH is off"}
	if p.Livepatch {
		words[0] = "CONFIG_LIVEPATCH"
	}
	if p.Reliable {
		words = append(words, "reliable stack traces")
	} else {
		words = append(words, "no reliable stack traces")
	}
	if p.Unwinder != "" {
		words = append(words, "unwinder: "+p.Unwinder)
	}
	return strings.Join(words, ", ")
}

// Risks says what the configuration lacks. Without reliable stack traces, the
// kernel loads live patches, and a task leaves the old code only when it leaves
// the kernel, which kernel threads never do (klp_enable_patch).
func (p Patching) Risks() []bundle.Risk {
	var out []bundle.Risk
	if !p.Livepatch {
		out = append(out, bundle.Risk{Kind: bundle.RiskUnreliable, Why: "the kernel was built without CONFIG_LIVEPATCH and will not load a live patch"})
	}
	if !p.Reliable {
		out = append(out, bundle.Risk{Kind: bundle.RiskUnreliable, Why: "the kernel cannot tell reliably what is on a sleeping task's stack, so that its transitions may never end"})
	}
	return out
}
