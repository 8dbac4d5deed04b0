package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"afloat/internal/lab/bench"
)

func newLabBench() *cobra.Command {
	var o bench.Options
	var kernel string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what builds and applies cost, one line per figure",
		Long: `Measures builds against the compiler's own time, applying a live patch in a guest
against a bare module load, memory and sizes. Each line of the output is
"bench NAME VALUE UNIT"; docs/benchmarks.md says what they mean.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return labHint(runBench(cmd, o, kernel)) },
	}
	f := cmd.Flags()
	f.StringVar(&kernel, "kernel", "debian:6.1.0-55-amd64", "debian:RELEASE")
	f.StringSliceVar(&o.Parts, "part", bench.Parts(), "what to measure; may be given again")
	f.IntVar(&o.Rounds, "rounds", 3, "times that each single-file build is measured")
	f.IntVar(&o.Applies, "applies", 20, "times that the live patch is applied each way")
	return cmd
}

func runBench(cmd *cobra.Command, o bench.Options, kernel string) error {
	if o.Rounds < 1 || o.Applies < 1 {
		return withHint(fmt.Errorf("cannot measure %d rounds and %d applies", o.Rounds, o.Applies), "each is at least 1")
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o.Bin, o.Progress = filepath.Dir(program), cmd.ErrOrStderr()
	cache, err := kitCache(o.Progress, os.Getenv("AFLOAT_DEB_DIR"))
	if err != nil {
		return err
	}
	if o.Kit, err = fetchKit(cmd, cache, kernel); err != nil {
		return err
	}
	if o.Dir, err = os.MkdirTemp("", "afloat-bench-"); err != nil {
		return fmt.Errorf("make bench folder: %w", err)
	}
	defer os.RemoveAll(o.Dir)
	o.Emit = func(f bench.Figure) { fmt.Fprintln(cmd.OutOrStdout(), f) }
	return bench.Run(cmd.Context(), o)
}
