package bench

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
	"afloat/internal/patch"
)

// patches are small changes of one file each; the names say which.
//
//go:embed testdata/*.patch
var patches embed.FS

// single are the patches of build_warm_ratio; all ten are those of build_10_files_ratio.
func single() []string {
	return []string{"fs-proc-version", "fs-ext4-mballoc", "kernel-fork", "net-ipv4-tcp", "fs-namei"}
}

func ten() []string {
	return append(single(), "fs-open", "fs-pipe", "kernel-sys", "mm-mmap", "net-core-sock")
}

// subject is a set of patches that is built by afloat, and compiled without it.
type subject struct {
	files []string          // of the diffs, for afloat build
	units []kbuild.Unit     // what the diffs touch
	after map[string][]byte // the patched sources
	whole []float64         // seconds of afloat build, a round each
	lines []float64         // seconds of the compiler's and objtool's lines
	peak  float64           // megabytes that afloat build held at most
}

func (s *subject) ratio() float64 { return median(s.whole) / median(s.lines) }

func (b *bench) builds(ctx context.Context) error {
	if err := b.kitFigure(); err != nil {
		return err
	}
	index, err := kbuild.LoadIndex(ctx, b.Kit, func(s string) { b.say("%s", s) })
	if err != nil {
		return err
	}
	product, fixed := 1.0, []float64(nil)
	for i, name := range single() {
		s, err := b.measure(ctx, index, b.Rounds, name)
		if err != nil {
			return err
		}
		product *= s.ratio()
		for i := range s.whole {
			fixed = append(fixed, 1000*(s.whole[i]-s.lines[i]))
		}
		b.say("%s: build %.2f s, compiler %.2f s, ratio %.2f", name, median(s.whole), median(s.lines), s.ratio())
		if i == 1 { // a middling object; the smallest would measure nothing
			if err := b.elfdiff(ctx, s); err != nil {
				return err
			}
		}
	}
	b.emit("build_warm_ratio", math.Pow(product, 1/float64(len(single()))), "ratio")
	b.emit("build_fixed_ms", median(fixed), "ms")
	s, err := b.measure(ctx, index, max(2, b.Rounds-1), ten()...)
	if err != nil {
		return err
	}
	b.say("ten files: build %.2f s, compiler %.2f s", median(s.whole), median(s.lines))
	b.emit("build_10_files_ratio", s.ratio(), "ratio")
	b.emit("build_rss_mb", s.peak, "MB")
	return nil
}

// kitFigure is how long the kit took to be made after its packages were
// there, from the marks that its steps left.
func (b *bench) kitFigure() error {
	st, err := os.Stat(filepath.Join(b.Kit.Dir, "steps", "download"))
	if err != nil {
		return fmt.Errorf("read kit: %w", err)
	}
	b.emit("kit_prepare_s", b.Kit.Made.Sub(st.ModTime()).Seconds(), "s")
	return nil
}

// measure builds the patches and compiles what they touch, by turns.
func (b *bench) measure(ctx context.Context, index *kbuild.Index, rounds int, names ...string) (*subject, error) {
	s, err := b.subject(index, names)
	if err != nil {
		return nil, err
	}
	for i := range rounds {
		turns := []func(context.Context, *subject) error{b.lines, b.build}
		for t := range turns {
			if err := turns[(i+t)%2](ctx, s); err != nil {
				return nil, fmt.Errorf("%s: %w", strings.Join(names, ", "), err)
			}
		}
	}
	return s, nil
}

// subject reads the patches and finds what they touch.
func (b *bench) subject(index *kbuild.Index, names []string) (*subject, error) {
	s := &subject{}
	var parsed []*patch.Patch
	for _, name := range names {
		text, err := b.write(s, name)
		if err != nil {
			return nil, err
		}
		p, err := patch.Parse(name, text)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, p)
	}
	root, err := os.OpenRoot(b.Kit.Source())
	if err != nil {
		return nil, err
	}
	defer root.Close()
	applied, err := patch.Apply(root.ReadFile, parsed...)
	if err != nil {
		return nil, err
	}
	s.after = applied.Files
	for _, source := range applied.Sort().Compile {
		units, err := index.Units(source)
		if err != nil {
			return nil, err
		}
		s.units = append(s.units, units...)
	}
	return s, nil
}

// write puts one of the patches where afloat build can read it.
func (b *bench) write(s *subject, name string) ([]byte, error) {
	text, err := patches.ReadFile("testdata/" + name + ".patch")
	if err != nil {
		return nil, err
	}
	file := b.file(name + ".patch")
	s.files = append(s.files, file)
	return text, os.WriteFile(file, text, 0o644)
}

// build runs the whole `afloat build` with nothing in the object cache.
func (b *bench) build(ctx context.Context, s *subject) error {
	cmd := b.command(ctx, b.buildArgs(s)...)
	var said strings.Builder
	cmd.Stderr = &said
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1) // the only value
	go func() { done <- cmd.Wait() }()
	peak, err := watchMemory(cmd.Process.Pid, done)
	s.whole, s.peak = append(s.whole, time.Since(start).Seconds()), max(s.peak, peak)
	if err != nil {
		return fmt.Errorf("afloat build: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// watchMemory returns how a process ended and the most megabytes that it held
// until then, without its children: their memory counts in rusage, so this
// reads the process's own high-water mark while it runs.
func watchMemory(pid int, done <-chan error) (peak float64, err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	status := fmt.Sprintf("/proc/%d/status", pid)
	for {
		select {
		case err := <-done:
			return peak, err
		case <-tick.C:
			if text, err := os.ReadFile(status); err == nil { // else it has just ended
				peak = max(peak, megabytes(string(text), "VmHWM:"))
			}
		}
	}
}

func (b *bench) buildArgs(s *subject) []string {
	args := []string{"build", "--quiet", "--no-cache", "--kernel", b.Kit.Ref.String(), "--key", b.file("publisher"),
		"--name", "bench", "-o", b.file("bench.afloat")}
	return append(args, s.files...)
}

// lines runs exactly the compiler's and objtool's lines of the build, for the
// originals and the patched objects, as many at once. The patched tree is made
// before the clock starts.
func (b *bench) lines(ctx context.Context, s *subject) error {
	work, err := os.MkdirTemp(b.Dir, "lines-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	builder := &kbuild.Builder{Kit: b.Kit, NoCache: true}
	if _, err := builder.Compile(ctx, work, nil, s.after); err != nil { // the tree alone
		return err
	}
	start := time.Now()
	_, err = builder.Compile(ctx, work, s.units, s.after)
	s.lines = append(s.lines, time.Since(start).Seconds())
	return err
}

// elfdiff measures reading and comparing one pair of objects, over and over.
func (b *bench) elfdiff(ctx context.Context, s *subject) error {
	tables, err := b.Kit.Tables()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(b.Dir, "elfdiff-")
	if err != nil {
		return err
	}
	pairs, err := (&kbuild.Builder{Kit: b.Kit, NoCache: true}).Compile(ctx, work, s.units, s.after)
	if err != nil {
		return err
	}
	original, err := os.ReadFile(pairs[0].Original)
	if err != nil {
		return err
	}
	patched, err := os.ReadFile(pairs[0].Patched)
	if err != nil {
		return err
	}
	var rates []float64
	for range 9 {
		start := time.Now()
		if err := compare(original, patched, elfdiff.Options{Sizes: tables.Sizes}); err != nil {
			return err
		}
		rates = append(rates, float64(len(original)+len(patched))/1e6/time.Since(start).Seconds())
	}
	b.emit("elfdiff_mb_per_s", median(rates), "MB/s")
	return nil
}

func compare(original, patched []byte, o elfdiff.Options) error {
	x, err := elfdiff.Read(bytes.NewReader(original))
	if err != nil {
		return err
	}
	y, err := elfdiff.Read(bytes.NewReader(patched))
	if err != nil {
		return err
	}
	d, err := elfdiff.Compare(x, y, o)
	if err == nil && d.Empty() {
		err = errors.New("the objects do not differ")
	}
	return err
}

// megabytes reads a line of /proc/PID/status, in kB there; 0 if it is not there.
func megabytes(status, field string) float64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			var kb float64
			if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%f kB", &kb); err == nil {
				return kb * 1024 / 1e6
			}
		}
	}
	return 0
}
