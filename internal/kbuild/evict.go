package kbuild

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"afloat/internal/kit"
)

// MaxCached is how many bytes of objects a kit keeps: some thousand objects.
const MaxCached = 2 << 30

// inUse is how long an object stays after it was last asked for, however full
// the cache is: a build that asked for it may not have read it yet.
const inUse = 10 * time.Minute

// objectFolder holds a kit's compiled objects, named by what they were made from.
func objectFolder(k *kit.Kit) string { return filepath.Join(k.Cache(), "objects") }

// Cached is what a kit's object cache holds.
type Cached struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

// CacheSize tells how much a kit's object cache holds.
func CacheSize(k *kit.Kit) (Cached, error) {
	entries, err := cachedObjects(k)
	if err != nil {
		return Cached{}, fmt.Errorf("size object cache of %s: %w", k.Ref, err)
	}
	return sum(entries), nil
}

func sum(entries []os.FileInfo) Cached {
	c := Cached{Objects: len(entries)}
	for _, e := range entries {
		c.Bytes += e.Size()
	}
	return c
}

// Evict removes the objects that were not asked for longest, until the cache
// holds at most limit bytes. Objects of the last ten minutes before now stay.
func Evict(k *kit.Kit, limit int64, now time.Time) (removed Cached, err error) {
	entries, err := cachedObjects(k)
	if err != nil {
		return removed, fmt.Errorf("evict objects of %s: %w", k.Ref, err)
	}
	slices.SortFunc(entries, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	over := sum(entries).Bytes - limit
	for _, e := range entries {
		if over <= 0 || now.Sub(e.ModTime()) < inUse {
			break
		}
		err := os.Remove(filepath.Join(objectFolder(k), e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // another build was first
		}
		if err != nil {
			return removed, fmt.Errorf("evict objects of %s: %w", k.Ref, err)
		}
		over -= e.Size()
		removed.Objects++
		removed.Bytes += e.Size()
	}
	return removed, nil
}

// cachedObjects lists the cache's files; leftovers of builds that were killed are among them.
func cachedObjects(k *kit.Kit) ([]os.FileInfo, error) {
	dir, err := os.ReadDir(objectFolder(k))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []os.FileInfo
	for _, d := range dir {
		if !d.Type().IsRegular() || !strings.HasSuffix(d.Name(), ".o") && !strings.HasPrefix(d.Name(), ".new-") {
			continue
		}
		info, err := d.Info()
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// lookUp says whether the cache has an object, and marks it as asked for.
func lookUp(cached string, now time.Time) bool {
	if _, err := os.Stat(cached); err != nil {
		return false
	}
	// Where the mark cannot be set the object only leaves the cache earlier.
	_ = os.Chtimes(cached, now, now)
	return true
}
