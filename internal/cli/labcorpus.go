package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/lab/corpus"
)

type corpusFlags struct {
	kernel, debs, guest, work, out string
	options                        corpus.Options
}

func newLabCorpus() *cobra.Command {
	var f corpusFlags
	cmd := &cobra.Command{
		Use:   "corpus",
		Short: "Build and load a live patch from each file that differs between two kernel versions",
		Long: `Takes every C file of a kernel's configuration that differs from a newer version of
its source, makes a patch of that file alone, and builds a live patch from it. What
was built is loaded into that kernel in QEMU, with its target module loaded where the
guest can, makes its transition, is disabled and unloaded; any warning of the kernel
counts as an error. The last lines hold the figures; the exit code is 0 only without
errors. Results are kept in the work folder: a run that was interrupted goes on, with
the same build of afloat; another build begins anew.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCorpus(cmd, f) },
	}
	cmd.Flags().StringVar(&f.kernel, "kernel", "debian:6.1.0-53-amd64", "kernel to patch, debian:RELEASE")
	cmd.Flags().StringVar(&f.options.After, "after", "6.1.190-1", "version of the source package whose changes are built")
	cmd.Flags().IntVar(&f.options.Sample, "sample", 200, "number of files to take; 0 takes all")
	cmd.Flags().Uint64Var(&f.options.Seed, "seed", 1, "decides which files the sample takes")
	cmd.Flags().IntVarP(&f.options.Jobs, "jobs", "j", 1, "files built at once")
	cmd.Flags().IntVar(&f.options.Batch, "batch", 40, "files built, then loaded in one guest")
	cmd.Flags().BoolVar(&f.options.Again, "again", false, "build and load once more what was refused or went wrong")
	cmd.Flags().StringVar(&f.guest, "guest", "", "static lab-guest binary (default: lab-guest beside this program)")
	cmd.Flags().StringVar(&f.work, "work", filepath.Join(defaultState(), "corpus"), "folder for the results")
	cmd.Flags().StringVarP(&f.out, "output", "o", "", "file to write the table to, as Markdown")
	cmd.Flags().StringVar(&f.debs, "debs", os.Getenv("AFLOAT_DEB_DIR"), "folder of .deb files to take before asking the archive")
	return cmd
}

// programDigest tells builds of this program apart: 12 hex digits.
func programDigest() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

func runCorpus(cmd *cobra.Command, f corpusFlags) error {
	cache, err := kitCache(cmd.ErrOrStderr(), f.debs)
	if err != nil {
		return err
	}
	o := f.options
	o.Cache = cache
	if o.Kit, err = fetchKit(cmd, cache, f.kernel); err != nil {
		return err
	}
	if o.Guest = f.guest; o.Guest == "" {
		if o.Guest, err = beside("lab-guest"); err != nil {
			return err
		}
	}
	program, err := programDigest()
	if err != nil {
		return err
	}
	o.Dir = filepath.Join(f.work, o.Kit.Release()+"_"+o.After+"_"+program)
	o.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
	report, err := corpus.Run(cmd.Context(), o)
	if err != nil {
		return labHint(err)
	}
	if f.out != "" {
		if err := writeFile(f.out, []byte(report.Markdown(time.Now())), 0o644); err != nil {
			return err
		}
	}
	figures := report.Figures()
	fmt.Fprint(cmd.OutOrStdout(), figures.Text())
	if figures.Errors > 0 {
		return errors.New("the corpus found errors")
	}
	return nil
}
