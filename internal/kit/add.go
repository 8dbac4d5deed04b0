package kit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"afloat/internal/kernel"
)

// NotAddedError says that a local kernel has no kit: nothing can be fetched for it.
type NotAddedError struct {
	Ref Ref
	Err error
}

func (e *NotAddedError) Error() string {
	return fmt.Sprintf("cannot fetch %s: it is from no archive (%v)", e.Ref, e.Err)
}

func (e *NotAddedError) Unwrap() error { return e.Err }

// TakenError says that another kernel has the name that one would be added by.
type TakenError struct {
	Ref       Ref
	Have, New string // build ids
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("cannot add %s with build id %s: the kit of that name has build id %s", e.Ref, e.New, e.Have)
}

// Add makes a kit of a kernel that no archive has, from its parts, under the
// name local:RELEASE, or local:RELEASE=tag. The parts are copied. Errors are a
// *MismatchError where they do not belong together, a *TakenError where a kit
// of that name is of another kernel.
func (c *Cache) Add(ctx context.Context, parts Parts, tag string) (*Kit, error) {
	if tag != "" && !versionPattern.MatchString(tag) {
		return nil, fmt.Errorf("cannot add a kernel by the tag %q: want a digit, then letters, digits and .+~-", tag)
	}
	if err := checkTools(ctx); err != nil {
		return nil, err
	}
	found, err := checkParts(ctx, parts)
	if err != nil {
		return nil, err
	}
	ref := Ref{Distro: Local, Release: found.id.Release, Version: tag}
	dir := c.dir(ref)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("add %s: %w", ref, err)
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", ref, err)
	}
	defer unlock()
	if k, err := c.added(ref, found.id); k != nil || err != nil {
		return k, err
	}
	m := &maker{cache: c, kit: &Kit{Dir: dir, Ref: ref}, from: parts.Image}
	bring := []step{
		{"copy kernel", func(ctx context.Context) error { return m.copyKernel(ctx, parts, found.vmlinux) }},
		{"copy source", func(ctx context.Context) error { return m.copySource(ctx, parts.Source) }},
	}
	if err := m.run(ctx, found.id.BuildID, bring); err != nil {
		return nil, fmt.Errorf("add %s: %w", ref, err)
	}
	return c.Open(ref)
}

// added returns the kit that is there by that name already; nil for none. A
// broken one is removed.
func (c *Cache) added(ref Ref, id kernel.ID) (*Kit, error) {
	k, err := c.Open(ref)
	switch {
	case err == nil && k.ID != id:
		return nil, &TakenError{Ref: ref, Have: k.ID.BuildID, New: id.BuildID}
	case errors.Is(err, ErrBrokenKit):
		if err := os.RemoveAll(c.dir(ref)); err != nil {
			return nil, fmt.Errorf("add %s: %w", ref, err)
		}
	}
	return k, nil // whatever else Open says: there is none
}

// copyKernel brings all but the source. An image that is not compressed stands for both.
func (m *maker) copyKernel(ctx context.Context, parts Parts, vmlinux []byte) error {
	for from, to := range map[string]string{parts.Image: "vmlinuz", parts.Config: "config", parts.Symvers: "Module.symvers"} {
		if err := copyFile(from, m.path(to)); err != nil {
			return err
		}
	}
	if err := writeAtomic(m.path("vmlinux"), vmlinux); err != nil {
		return err
	}
	if err := os.RemoveAll(m.path("modules")); err != nil {
		return err
	}
	return copyTree(ctx, parts.Modules, m.path("modules"), func(path string, d fs.DirEntry) bool { return d.IsDir() || isModule(path) })
}

// copySource brings the tree without what an earlier build left there: make
// would take stale objects and its own records of them for new.
func (m *maker) copySource(ctx context.Context, from string) error {
	if err := os.RemoveAll(m.kit.Source()); err != nil {
		return err
	}
	return copyTree(ctx, from, m.kit.Source(), func(path string, d fs.DirEntry) bool {
		name := d.Name()
		switch {
		case name == ".git", strings.HasSuffix(name, ".o"), strings.HasSuffix(name, ".a"), strings.HasSuffix(name, ".cmd"), isModule(name):
			return false
		}
		return path != "vmlinux" && path != ".config"
	})
}

// copyTree copies folders, files with their modes and times, and links below
// from, as far as want says so; its path is the one below from.
func copyTree(ctx context.Context, from, to string, want func(path string, d fs.DirEntry) bool) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel != "." && !want(rel, d):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir():
			return os.MkdirAll(target, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case d.Type().IsRegular():
			return copyFile(path, target)
		}
		return nil // sockets and the like
	})
}

// copyFile copies content, permission bits and time; make compares times.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, st.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Chtimes(to, st.ModTime(), st.ModTime())
}
