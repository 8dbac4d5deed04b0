package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"afloat/internal/kbuild"
	"afloat/internal/kit"
)

func newKernelPrune() *cobra.Command {
	var limitMB int64
	cmd := &cobra.Command{
		Use:   "prune [KERNEL...]",
		Short: "Remove compiled objects from the kits' caches, the longest unused first",
		Long: fmt.Sprintf(`Remove compiled objects from the caches of the kits, or of the named ones, until each
holds at most --max-mb megabytes. Objects are named by all that they were made from,
so that none is ever wrong, only in the way. Builds do this themselves at %d MB. What
a build asked for in the last ten minutes stays.`, kbuild.MaxCached>>20),
		Example: "  afloat kernel prune --max-mb 0",
		RunE: func(cmd *cobra.Command, args []string) error {
			if limitMB < 0 {
				return fmt.Errorf("cannot keep %d MB", limitMB)
			}
			kits, err := openKits(cmd, args)
			if err != nil {
				return err
			}
			for _, k := range kits {
				removed, err := kbuild.Evict(k, limitMB<<20, time.Now())
				if err != nil {
					return err
				}
				left, err := kbuild.CacheSize(k)
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: removed %s, %d MB; %s left, %d MB\n", k.Ref, counted(removed.Objects, "object"), removed.Bytes>>20,
					counted(left.Objects, "object"), left.Bytes>>20)
			}
			return nil
		},
	}
	cmd.Flags().Int64Var(&limitMB, "max-mb", kbuild.MaxCached>>20, "megabytes of objects that each kit keeps")
	return cmd
}

// openKits opens the named kits, or all that are whole.
func openKits(cmd *cobra.Command, names []string) ([]*kit.Kit, error) {
	cache, err := kitCache(cmd.ErrOrStderr(), "")
	if err != nil {
		return nil, err
	}
	named := len(names) > 0
	if !named {
		entries, err := cache.List()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			names = append(names, e.Kernel)
		}
	}
	var kits []*kit.Kit
	for _, name := range names {
		ref, err := kit.ParseRef(name)
		if err != nil {
			return nil, err
		}
		k, err := cache.Open(ref)
		if err != nil && named {
			return nil, withHint(err, "`afloat kernel list` names the kits that are there")
		}
		if err == nil {
			kits = append(kits, k)
		}
	}
	return kits, nil
}

// listedKit is a kit with what its object cache holds.
type listedKit struct {
	kit.Entry
	Cached kbuild.Cached `json:"cached"`
}

// sizeKits adds the sizes of their object caches to kits.
func sizeKits(cache *kit.Cache, entries []kit.Entry) ([]listedKit, error) {
	list := []listedKit{}
	for _, e := range entries {
		l := listedKit{Entry: e}
		if ref, err := kit.ParseRef(e.Kernel); err == nil {
			if k, err := cache.Open(ref); err == nil {
				if l.Cached, err = kbuild.CacheSize(k); err != nil {
					return nil, err
				}
			}
		}
		list = append(list, l)
	}
	return list, nil
}
