package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"afloat/internal/kbuild"
	"afloat/internal/kit"
)

// exitAbsent: the archive does not have the kernel, or is out of reach.
const exitAbsent = 5

func newKernel() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "kernel",
		Short:   "Fetch, add and list the kits that building for a kernel needs",
		GroupID: "build",
	}
	cmd.AddCommand(newKernelFetch(), newKernelAdd(), newKernelList(), newKernelPrune(), newKernelRemove())
	return cmd
}

func newKernelFetch() *cobra.Command {
	var debs string
	cmd := &cobra.Command{
		Use:   "fetch debian:RELEASE...",
		Short: "Get a kernel's packages from the archive and prepare its source tree, once",
		Long: `Get image, headers and source of exactly one kernel from Debian's archive, unpack
them in the cache ($XDG_CACHE_HOME/afloat, else ~/.cache/afloat) and prepare the
source tree. Nothing is installed, and root is not needed. The source of an rt
kernel has a patch series on top, which is in the debian.tar of the source package
only: that is found by the archive's signed index of sources, with apt's own
repositories, keys and proxies, but without changing apt's lists.

AFLOAT_DEB_DIR, or --debs, names a folder of .deb files (and debian.tar files) to
take before asking the archive. AFLOAT_KITS names cache folders of others, separated by colons, whose
kits are used as well and never written to.

Exit codes: 0 ready, 5 the archive does not have the kernel or is out of reach, 1
any other error.`,
		Example: "  afloat kernel fetch debian:6.1.0-55-amd64",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kitCache(cmd.ErrOrStderr(), debs)
			if err != nil {
				return err
			}
			for _, arg := range args {
				k, err := fetchKit(cmd, cache, arg)
				if kit.Absent(err) {
					return &exitError{exitAbsent, err}
				}
				if err != nil {
					return err
				}
				if err := readyKit(cmd, k); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&debs, "debs", os.Getenv("AFLOAT_DEB_DIR"), "folder of .deb and debian.tar files to take before asking the archive")
	return cmd
}

// kitCache is the user's cache of kits, with progress written to w.
func kitCache(w io.Writer, debs string) (*kit.Cache, error) {
	dir, err := kit.DefaultDir()
	if err != nil {
		return nil, err
	}
	return &kit.Cache{Dir: dir, DebDir: debs, Shared: filepath.SplitList(os.Getenv("AFLOAT_KITS")), Progress: func(s kit.Step) {
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
	return nil, explainKit(err)
}

// explainKit adds to an error of making a kit what the person can do.
func explainKit(err error) error {
	if t, ok := errors.AsType[*kit.MissingToolsError](err); ok {
		return withHint(err, "apt-get install -y %s", strings.Join(t.Packages, " "))
	}
	if e, ok := errors.AsType[*kit.MismatchError](err); ok {
		return withHint(err, "%s", e.Hint)
	}
	if _, ok := errors.AsType[*kit.ConfigDriftError](err); ok {
		return withHint(err, "install the compiler that the kernel was built with")
	}
	if n, ok := errors.AsType[*kit.NotInArchiveError](err); ok {
		if len(n.Have) > 0 {
			return withHint(err, "the newest is %s; `apt-get update` first if that is old", n.Have[len(n.Have)-1])
		}
		return withHint(err, "run `apt-get update`")
	}
	if errors.Is(err, kit.ErrNoArchive) {
		return withHint(err, "run `apt-get update`")
	}
	if _, ok := errors.AsType[*kit.UnreachableError](err); ok {
		return withHint(err, "--debs names a folder to take the packages from; what was fetched already is kept")
	}
	if hint := explainSeries(err); hint != "" {
		return withHint(err, "%s", hint)
	}
	if _, ok := errors.AsType[*kit.NotAddedError](err); ok {
		return withHint(err, "`afloat kernel add --from DIR...` makes its kit, `afloat kernel list` names those that are there")
	}
	return err
}

// explainSeries says what to do where a real-time kernel's patch series cannot
// be had or applied; "" for other errors.
func explainSeries(err error) string {
	const other = "put the file into a folder and name that with --debs"
	if e, ok := errors.AsType[*kit.NoSourceIndexError](err); ok {
		return "has another archive the source package? " + other + ": " + e.File
	}
	if _, ok := errors.AsType[*kit.SourceGoneError](err); ok {
		return "where you have it from elsewhere, " + other
	}
	if _, ok := errors.AsType[*kit.HashError](err); ok {
		return "a mirror or proxy on the way changed it or is behind the archive: fetch again, or ask whoever runs it"
	}
	if _, ok := errors.AsType[*kit.SeriesError](err); ok {
		return "with a source tree that has the series applied, `afloat kernel add --from DIR...` makes a kit"
	}
	return ""
}

func newKernelAdd() *cobra.Command {
	var parts kit.Parts
	var from []string
	var tag string
	cmd := &cobra.Command{
		Use:   "add --from DIR...",
		Short: "Make a kit of a kernel that is not Debian's, from its image, configuration, modules and source",
		Long: `Make a kit of a kernel that no archive has, such as one of your own. The folders
must hold, at any depth: the image (vmlinuz, bzImage or vmlinux), the configuration
(.config or config-*), Module.symvers, the modules, and the source tree that it was
built from. A build tree with the installed modules is enough. Where a part is not
found, or several are, name it by its own flag.

The parts are copied, after it was made sure that they are those of one kernel:
versions, vermagic, exports against the image's symbols, and each module's CRCs
against Module.symvers. The kernel is then called local:RELEASE, and with --tag
local:RELEASE=TAG, where two builds have one release.`,
		Example: "  afloat kernel add --from ~/linux --from /lib/modules/6.1.192-mine\n" +
			"  afloat build --kernel local:6.1.192-mine --key publisher --name 2026-11-ext4 -o ext4.afloat ext4.patch",
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kitCache(cmd.ErrOrStderr(), "")
			if err != nil {
				return err
			}
			found, err := kit.FindParts(parts, append(from, args...))
			if err != nil {
				return explainAdd(err)
			}
			for _, p := range [][2]string{{"image", found.Image}, {"configuration", found.Config}, {"exports", found.Symvers}, {"modules", found.Modules}, {"source", found.Source}} {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", p[0], p[1])
			}
			k, err := cache.Add(cmd.Context(), found, tag)
			if err != nil {
				return explainAdd(err)
			}
			err = readyKit(cmd, k)
			if foreign, ok := errors.AsType[*kbuild.ForeignError](err); ok {
				err = withHint(fmt.Errorf("cannot make a kit: %s: %w", found.Config, foreign), "give the configuration and the source that the modules were built from")
				return errors.Join(err, cache.Remove(cmd.Context(), k.Ref))
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&from, "from", nil, "folder to look for the parts in; may be repeated")
	cmd.Flags().StringVar(&parts.Image, "image", "", "the kernel's image")
	cmd.Flags().StringVar(&parts.Config, "config", "", "its configuration")
	cmd.Flags().StringVar(&parts.Symvers, "symvers", "", "its Module.symvers")
	cmd.Flags().StringVar(&parts.Modules, "modules", "", "folder of its modules")
	cmd.Flags().StringVar(&parts.Source, "source", "", "its source tree")
	cmd.Flags().StringVar(&tag, "tag", "", "name among several builds of one release; begins with a digit")
	return cmd
}

// explainAdd adds to an error what the person can do.
func explainAdd(err error) error {
	if e, ok := errors.AsType[*kit.PartError](err); ok {
		return withHint(err, "name it with --%s", e.Part)
	}
	if _, ok := errors.AsType[*kit.TakenError](err); ok {
		return withHint(err, "tell the two builds apart with --tag")
	}
	return explainKit(err)
}

// readyKit lists the kit's objects, which every build needs, and says that it is there.
func readyKit(cmd *cobra.Command, k *kit.Kit) error {
	if _, err := kbuild.LoadIndex(cmd.Context(), k, func(step string) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s ...\n", k.Ref, step)
	}); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is ready: %s, %s\n", k.Ref, k.ID, k.Dir)
	return nil
}

func newKernelRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove KERNEL...",
		Short: "Delete kits from the cache",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cache, err := kitCache(cmd.ErrOrStderr(), "")
			if err != nil {
				return err
			}
			for _, arg := range args {
				ref, err := kit.ParseRef(arg)
				if err == nil {
					err = cache.Remove(cmd.Context(), ref)
				}
				if err != nil {
					return withHint(err, "`afloat kernel list` names the kits that are there")
				}
			}
			return nil
		},
	}
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
		list, err := sizeKits(cache, entries)
		if err != nil {
			return err
		}
		t := table{head: []string{"KERNEL", "STATE", "PACKAGE", "BUILD ID", "OBJECTS", "FOLDER", "WHY"}}
		for _, e := range list {
			if e.Shared {
				e.Why = strings.TrimPrefix(e.Why+"; shared", "; ")
			}
			t.add(e.Kernel, e.State, e.Package, fmt.Sprintf("%.12s", e.BuildID), fmt.Sprintf("%d MB", e.Cached.Bytes>>20), e.Dir, e.Why)
		}
		return write(cmd.OutOrStdout(), *format, list, t)
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
