package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/lab/demo"
)

func newLabDemo() *cobra.Command {
	var o demo.Options
	var breaks string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The main job on real kernels: a fix under traffic, then a bad one that stops itself",
		Long: `Fetches a kernel's kit, builds two live patches from source diffs, boots a fleet in
QEMU behind HAProxy, and rolls the first patch out while a meter counts every
failed request. Then it rolls out a patch that oopses when somebody uses it, and
watches the rollout stop and revert by itself. The last line holds the figures;
the exit code is 0 only if all of them are as they must be.

--break breaks something on purpose, to show that the checks see it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Break = demo.Break(breaks)
			return runDemo(cmd, o, limit)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Kernel, "kernel", "", "debian:RELEASE (default: the newest 6.1.0-N-amd64 that the archive offers)")
	f.IntVar(&o.Hosts, "hosts", 3, "number of hosts, at least 2")
	f.Float64Var(&o.Rate, "rate", 30, "requests per second")
	f.StringVar(&o.Dir, "work", "", "folder for what the demo makes (default: a new temporary one, removed at the end)")
	f.StringVar(&breaks, "break", "", "break something on purpose: revert or cut")
	f.DurationVar(&o.Patience, "patience", 90*time.Second, "how long the bad patch may take to come off")
	f.BoolVar(&o.Keep, "keep", false, "leave the lab running at the end")
	f.DurationVar(&limit, "limit", 20*time.Minute, "give up after this time")
	return cmd
}

func runDemo(cmd *cobra.Command, o demo.Options, limit time.Duration) error {
	if o.Hosts < 2 || o.Hosts > 16 {
		return withHint(fmt.Errorf("cannot play the demo with %d hosts", o.Hosts), "--hosts takes 2 to 16")
	}
	switch o.Break {
	case demo.BreakNothing, demo.BreakRevert, demo.BreakCut:
	default:
		return withHint(fmt.Errorf("cannot break %q", o.Break), "--break takes revert or cut")
	}
	var err error
	if o.Afloat, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "afloat-demo-"); err != nil {
			return fmt.Errorf("make demo folder: %w", err)
		}
		if !o.Keep {
			defer os.RemoveAll(o.Dir)
		}
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return fmt.Errorf("make demo folder: %w", err)
	}
	o.Out = cmd.OutOrStdout()
	ctx, cancel := contextWithLimit(cmd.Context(), limit)
	defer cancel()
	result, err := demo.Run(ctx, o)
	if err == nil {
		err = result.Check()
	}
	fmt.Fprintf(o.Out, "\n%s\n", result)
	return err
}

func contextWithLimit(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %v", limit))
}
