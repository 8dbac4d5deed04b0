// Package bench measures what afloat costs: building a live patch against the
// compiler's own time, applying one against a bare module load, memory and
// sizes. Whatever is compared is measured by turns, so that a busy machine
// hits both sides.
package bench

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"afloat/internal/kit"
)

// Figure is one measured value.
type Figure struct {
	Name  string
	Value float64
	Unit  string
}

// String is the line that `make bench` prints.
func (f Figure) String() string {
	digits := 1
	if f.Unit == "ratio" {
		digits = 3
	}
	return fmt.Sprintf("bench %s %.*f %s", f.Name, digits, f.Value, f.Unit)
}

// Options say what to measure with.
type Options struct {
	Bin string   // folder of afloat, afloat-agent, lab-guest and bench-applier
	Dir string   // folder for everything that the measurements make
	Kit *kit.Kit // the kernel that is built for and booted
	// Parts to measure, of Parts().
	Parts []string
	// Rounds of every single-file build; Applies of the live patch in a guest.
	Rounds, Applies int
	Progress        io.Writer // what goes on, in words
	// Emit is called with each figure as soon as it is known.
	Emit func(Figure)
}

// Run measures everything. Figures that were emitted before an error hold.
func Run(ctx context.Context, o Options) error {
	b := &bench{Options: o}
	if _, err := b.afloat(ctx, nil, "keygen", "-o", b.file("publisher")); err != nil {
		return err
	}
	do := map[string]func(context.Context) error{"sizes": b.sizes, "builds": b.builds, "guest": b.guest}
	for _, part := range o.Parts {
		if do[part] == nil {
			return fmt.Errorf("measure %q: no such part", part)
		}
		if err := do[part](ctx); err != nil {
			return fmt.Errorf("measure %s: %w", part, err)
		}
	}
	return nil
}

// Parts are all that can be measured.
func Parts() []string { return []string{"sizes", "builds", "guest"} }

type bench struct{ Options }

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.Progress, format+"\n", args...) }

func (b *bench) file(name string) string { return filepath.Join(b.Dir, name) }

func (b *bench) emit(name string, value float64, unit string) { b.Emit(Figure{name, value, unit}) }

// sizes are those of the binaries as they ship.
func (b *bench) sizes(context.Context) error {
	for _, f := range [][2]string{{"agent_size_mb", "afloat-agent"}, {"server_size_mb", "afloat"}} {
		st, err := os.Stat(filepath.Join(b.Bin, f[1]))
		if err != nil {
			return err
		}
		b.emit(f[0], float64(st.Size())/1e6, "MB")
	}
	return nil
}

// command is one of afloat's own commands.
func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(b.Bin, "afloat"), args...)
}

// afloat runs a command that must work and returns what it printed.
func (b *bench) afloat(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := b.command(ctx, args...)
	cmd.Env = append(os.Environ(), env...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("afloat %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}

// median of at least one value; of an even number the mean of the middle two.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
