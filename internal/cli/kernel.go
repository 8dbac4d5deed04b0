package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/kbuild"
	"afloat/internal/kit"
)

func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kernel",
		Short:   "Fetch and list the kits that building for a kernel needs",
		GroupID: "build",
	}
	cmd.AddCommand(newKernelFetch(), newKernelList())
	return cmd
}

func newKernelFetch() *cobra.Command {
	var debs string
	cmd := &cobra.Command{
		Use:   "fetch debian:RELEASE...",
		Short: "Get a kernel's packages from the archive and prepare its source tree, once",
		Long: `Get image, headers and source of exactly one kernel from Debian's archive, unpack
them in the cache ($XDG_CACHE_HOME/afloat, else ~/.cache/afloat) and prepare the
source tree. Nothing is installed, and root is not needed.

AFLOAT_DEB_DIR, or --debs, names a folder of .deb files to take before asking
the archive.`,
		Example: "  afloat kernel fetch debian:6.1.0-55-amd64",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kitCache(cmd.ErrOrStderr(), debs)
			if err != nil {
				return err
			}
			for _, arg := range args {
				k, err := fetchKit(cmd, cache, arg)
				if err != nil {
					return err
				}
				if _, err := kbuild.LoadIndex(cmd.Context(), k, func(step string) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s ...\n", k.Ref, step)
				}); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is ready: %s, %s\n", k.Ref, k.ID, k.Dir)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&debs, "debs", os.Getenv("AFLOAT_DEB_DIR"), "folder of .deb files to take before asking the archive")
	return cmd
}

// kitCache is the user's cache of kits, with progress written to w.
func kitCache(w io.Writer, debs string) (*kit.Cache, error) {
	dir, err := kit.DefaultDir()
	if err != nil {
		return nil, err
	}
	return &kit.Cache{Dir: dir, DebDir: debs, Progress: func(s kit.Step) {
		if s.Done {
			fmt.Fprintf(w, "%s: %s: %.1f s\n", s.Ref, s.Name, s.Took.Seconds())
		} else {
			fmt.Fprintf(w, "%s: %s ...\n", s.Ref, s.Name)
		}
	}}, nil
}

// fetchKit makes the kit of the kernel that arg names, and explains what can go wrong.
func fetchKit(cmd *cobra.Command, cache *kit.Cache, arg string) (*kit.Kit, error) {
	ref, err := kit.ParseRef(arg)
	if err != nil {
		return nil, withHint(err, "`apt-cache search '^linux-image-6'` lists the kernels of the archive")
	}
	k, err := cache.Fetch(cmd.Context(), ref)
	if err == nil {
		for _, note := range k.Notes {
			fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", note)
		}
		return k, nil
	}
	if t, ok := errors.AsType[*kit.MissingToolsError](err); ok {
		return nil, withHint(err, "apt-get install -y %s", strings.Join(t.Packages, " "))
	}
	if _, ok := errors.AsType[*kit.ConfigDriftError](err); ok {
		return nil, withHint(err, "install the compiler that the kernel was built with")
	}
	if n, ok := errors.AsType[*kit.NotInArchiveError](err); ok {
		if len(n.Have) > 0 {
			return nil, withHint(err, "the newest is %s; `apt-get update` first if that is old", n.Have[len(n.Have)-1])
		}
		return nil, withHint(err, "run `apt-get update`")
	}
	if errors.Is(err, kit.ErrNoArchive) {
		return nil, withHint(err, "run `apt-get update`")
	}
	return nil, err
}

func newKernelList() *cobra.Command {
	var archive bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the kits in the cache, or with --archive what the archive offers",
		Args:  cobra.NoArgs,
	}
	format := outputFlag(cmd)
	cmd.Flags().BoolVar(&archive, "archive", false, "list the kernels that the archive offers instead")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if archive {
			return listArchive(cmd, *format)
		}
		cache, err := kitCache(cmd.ErrOrStderr(), "")
		if err != nil {
			return err
		}
		entries, err := cache.List()
		if err != nil {
			return err
		}
		t := table{head: []string{"KERNEL", "STATE", "PACKAGE", "BUILD ID", "FOLDER", "WHY"}}
		for _, e := range entries {
			t.add(e.Kernel, e.State, e.Package, fmt.Sprintf("%.12s", e.BuildID), e.Dir, e.Why)
		}
		return write(cmd.OutOrStdout(), *format, append([]kit.Entry{}, entries...), t)
	}
	return cmd
}

func listArchive(cmd *cobra.Command, format string) error {
	offers, err := kit.Available(cmd.Context())
	if err != nil {
		return withHint(err, "run `apt-get update`")
	}
	type offered struct {
		Kernel  string `json:"kernel"`
		Series  string `json:"series"`
		Flavour string `json:"flavour"`
		Package string `json:"package"`
		Source  bool   `json:"source"`
	}
	list, t := []offered{}, table{head: []string{"KERNEL", "SERIES", "FLAVOUR", "PACKAGE", "SOURCE"}}
	for _, o := range offers {
		list = append(list, offered{o.Ref.String(), o.Ref.Series(), o.Ref.Flavour(), o.Package, o.Source})
		source := "missing: cannot be built for"
		if o.Source {
			source = "yes"
		}
		t.add(o.Ref.String(), o.Ref.Series(), o.Ref.Flavour(), o.Package, source)
	}
	return write(cmd.OutOrStdout(), format, list, t)
}
