package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cache is a folder of kits. The zero value is not usable: set Dir.
type Cache struct {
	Dir string
	// Shared are other cache folders, such as a team's on a mount that cannot be
	// written to. Their kits are used and never changed.
	Shared []string
	// DebDir, if set, is looked into for .deb files before the archive is asked.
	DebDir string
	// Progress, if set, is told about each step as it starts and ends.
	Progress func(Step)
	// Now stamps new kits; time.Now if nil.
	Now func() time.Time
}

// Step is one step of making a kit.
type Step struct {
	Ref  Ref
	Name string
	Done bool
	Took time.Duration // of a done step
}

// DefaultDir is $XDG_CACHE_HOME/afloat, else ~/.cache/afloat.
func DefaultDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	return filepath.Join(dir, "afloat"), nil
}

func (c *Cache) kits() string { return filepath.Join(c.Dir, "kits") }

// dir is the kit's folder. A Ref's parts hold no slash, see ParseRef; nor may the
// name hold what make reads as its own, such as an equals sign.
func (c *Cache) dir(ref Ref) string {
	name := ref.Release
	if ref.Version != "" {
		name += "@" + ref.Version
	}
	return filepath.Join(c.kits(), ref.Distro, name)
}

// Open returns a finished kit, of the cache or of a shared one. Errors wrap ErrNoKit or ErrBrokenKit.
func (c *Cache) Open(ref Ref) (*Kit, error) {
	k, err := open(c.dir(ref))
	if !errors.Is(err, ErrNoKit) {
		return k, err
	}
	for _, folder := range c.Shared {
		if shared, err := open((&Cache{Dir: folder}).dir(ref)); err == nil {
			return shared, c.borrow(shared)
		}
	}
	return nil, err
}

// borrow gives a shared kit a place of our own for what is derived from it, and
// in that what its owner derived already, but for objects.
func (c *Cache) borrow(k *Kit) error {
	theirs := k.Cache()
	k.derived = filepath.Join(c.Dir, "derived", k.ID.BuildID)
	if err := os.MkdirAll(k.derived, 0o755); err != nil {
		return fmt.Errorf("use shared kit %s: %w", k.Ref, err)
	}
	indexes, err := filepath.Glob(filepath.Join(theirs, "*.gz"))
	if err != nil {
		return fmt.Errorf("use shared kit %s: %w", k.Ref, err)
	}
	for _, file := range indexes {
		err := os.Symlink(file, filepath.Join(k.derived, filepath.Base(file)))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("use shared kit %s: %w", k.Ref, err)
		}
	}
	return nil
}

// Fetch returns the kernel's kit, and makes it first where the cache has none
// or a broken one. Two at once wait for each other.
func (c *Cache) Fetch(ctx context.Context, ref Ref) (*Kit, error) {
	if k, err := c.Open(ref); err == nil {
		return k, nil
	}
	dir := c.dir(ref)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", ref, err)
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", ref, err)
	}
	defer unlock()
	k, err := c.Open(ref) // another process may have made it meanwhile
	if err == nil {
		return k, nil
	}
	if ref.Distro == Local {
		return nil, &NotAddedError{Ref: ref, Err: err}
	}
	if errors.Is(err, ErrBrokenKit) {
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("fetch %s: %w", ref, err)
		}
	}
	if err := c.prepare(ctx, ref, dir); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", ref, err)
	}
	return c.Open(ref)
}

// Remove deletes a kernel's kit, whole or unfinished. Errors wrap ErrNoKit.
func (c *Cache) Remove(ctx context.Context, ref Ref) error {
	dir := c.dir(ref)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", ref, ErrNoKit)
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return fmt.Errorf("remove %s: %w", ref, err)
	}
	defer unlock()
	// The marker first: what is left of a removal that breaks off is no kit.
	err = os.Remove(filepath.Join(dir, markerFile))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, os.RemoveAll(dir), os.Remove(dir+".lock")); err != nil {
		return fmt.Errorf("remove %s: %w", ref, err)
	}
	return nil
}

// Entry is one kernel of a listing.
type Entry struct {
	Kernel  string   `json:"kernel"`
	State   string   `json:"state"` // ready, broken or unfinished
	Why     string   `json:"why,omitempty"`
	Package string   `json:"package,omitempty"`
	Version string   `json:"version,omitempty"`
	BuildID string   `json:"build_id,omitempty"`
	Dir     string   `json:"dir"`
	Shared  bool     `json:"shared,omitempty"` // it is somebody else's
	Notes   []string `json:"notes,omitempty"`
}

// List returns every kernel in the cache and in the shared ones, sorted by
// name; none if there is no cache yet.
func (c *Cache) List() ([]Entry, error) {
	var out []Entry
	for i, folder := range append([]string{c.Dir}, c.Shared...) {
		dirs, err := filepath.Glob(filepath.Join((&Cache{Dir: folder}).kits(), "*", "*"))
		if err != nil {
			return nil, fmt.Errorf("list kits: %w", err)
		}
		for _, dir := range dirs {
			if st, err := os.Stat(dir); err == nil && st.IsDir() {
				e := describe(dir)
				e.Shared = i > 0
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Kernel, b.Kernel) })
	return out, nil
}

func describe(dir string) Entry {
	e := Entry{Kernel: filepath.Base(filepath.Dir(dir)) + ":" + strings.Replace(filepath.Base(dir), "@", "=", 1), State: "ready", Dir: dir}
	k, err := open(dir)
	switch {
	case errors.Is(err, ErrNoKit):
		e.State, e.Why = "unfinished", "fetch it again to finish it"
	case err != nil:
		e.State, e.Why = "broken", err.Error()
	default:
		e.Package, e.Version, e.BuildID, e.Notes = k.Package, k.ID.Version, k.ID.BuildID, k.Notes
	}
	return e
}

// Lock takes an exclusive lock on path between processes, waiting while another process holds it.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, &fs.PathError{Op: "flock", Path: path, Err: err})
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another fetch: %w", context.Cause(ctx))
		case <-again.C:
		}
	}
}
