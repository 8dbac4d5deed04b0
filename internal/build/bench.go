package build

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kbuild"
	"afloat/internal/kit"
)

// Figure is one measured value.
type Figure struct {
	Name  string
	Value float64
	Unit  string
}

// benchFiles are the sources that Bench patches: one instruction more before
// the first line that holds the text.
func benchFiles() [][2]string {
	return [][2]string{
		{"fs/proc/version.c", "\tseq_printf(m, linux_proc_banner,"},
		{"kernel/fork.c", "\tdelayacct_tsk_init(p);"},
		{"net/ipv4/tcp.c", "\ttcp_rate_check_app_limited(sk);"},
		{"fs/ext4/mballoc.c", "\tmb_debug(sb, \"load group %u\\n\", group);"},
		{"mm/memory.c", "\tcount_vm_event(PGFAULT);"},
	}
}

// Bench measures builds with the kit ready and no object in the cache.
// build_warm_ratio is the time of a build over the time of the compiler's and
// objtool's own lines for the original and the patched object, run side by
// side; the geometric mean over five files. build_fixed_ms is what a build
// takes beyond them, the median. Each file counts with the median of rounds.
func Bench(ctx context.Context, k *kit.Kit, rounds int, progress func(string)) ([]Figure, error) {
	index, err := kbuild.LoadIndex(ctx, k, progress)
	if err != nil {
		return nil, err
	}
	var product float64 = 1
	var fixed []float64
	for _, f := range benchFiles() {
		progress("building " + f[0])
		var whole, lines []float64
		for range rounds {
			l, err := benchLines(ctx, k, index, f[0])
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", f[0], err)
			}
			w, err := benchBuild(ctx, k, f[0], f[1])
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", f[0], err)
			}
			whole, lines, fixed = append(whole, w), append(lines, l), append(fixed, w-l)
		}
		product *= median(whole) / median(lines)
	}
	ratio := math.Pow(product, 1/float64(len(benchFiles())))
	return []Figure{{"build_warm_ratio", ratio, "x"}, {"build_fixed_ms", median(fixed), "ms"}}, nil
}

// benchLines runs the exact lines for two objects of a source at once, in
// milliseconds. The patched source is one instruction longer; the original
// stands in for it.
func benchLines(ctx context.Context, k *kit.Kit, index *kbuild.Index, source string) (float64, error) {
	units, err := index.Units(source)
	if err != nil {
		return 0, err
	}
	work, err := os.MkdirTemp("", "afloat-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(work)
	b := &kbuild.Builder{Kit: k, NoCache: true}
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.Jobs())
	for _, side := range []string{"one", "two"} {
		group.Go(func() error {
			_, err := b.Plain(ctx, filepath.Join(work, side), units[0])
			return err
		})
	}
	err = group.Wait()
	return float64(time.Since(start).Microseconds()) / 1000, err
}

func benchBuild(ctx context.Context, k *kit.Kit, source, before string) (float64, error) {
	text, err := os.ReadFile(filepath.Join(k.Source(), source))
	if err != nil {
		return 0, err
	}
	diff, err := insertion(source, string(text), before, "\tasm volatile(\"nop\");\n")
	if err != nil {
		return 0, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = Build(ctx, Options{Kit: k, Name: "bench", Key: key, NoCache: true, Now: start, Patches: []Input{{Name: "bench.patch", Text: diff}}})
	return float64(time.Since(start).Microseconds()) / 1000, err
}

// insertion is the diff that inserts a line before the first one that begins with text.
func insertion(path, source, text, added string) ([]byte, error) {
	lines := slices.Collect(strings.Lines(source))
	at := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, text) })
	if at < 0 {
		return nil, errors.New("source has no line to insert before")
	}
	return fmt.Appendf(nil, "--- a/%s\n+++ b/%s\n@@ -%d,1 +%d,2 @@\n+%s %s", path, path, at+1, at+1, added, lines[at]), nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
