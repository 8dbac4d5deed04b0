package kbuild

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kit"
)

// The longest unused objects go first, and never one that was just asked for.
func TestEvict(t *testing.T) {
	k := &kit.Kit{Dir: t.TempDir()}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	if removed, err := Evict(k, 0, now); err != nil || removed.Objects != 0 {
		t.Errorf("an empty cache: %+v, %v", removed, err)
	}
	if err := os.MkdirAll(objectFolder(k), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, age time.Duration) {
		t.Helper()
		path := filepath.Join(objectFolder(k), name)
		if err := errors.Join(os.WriteFile(path, make([]byte, 1000), 0o644), os.Chtimes(path, now.Add(-age), now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	for age := range 6 {
		put(fmt.Sprintf("%d-hours.o", age+1), time.Duration(age+1)*time.Hour)
	}
	put(".new-killed", 9*time.Hour)
	put("now.o", time.Minute)
	put("no-object.txt", 99*time.Hour)
	if !lookUp(filepath.Join(objectFolder(k), "6-hours.o"), now) || lookUp(filepath.Join(objectFolder(k), "none.o"), now) {
		t.Error("the cache does not know what it holds")
	}
	have := func() []string {
		t.Helper()
		entries, err := os.ReadDir(objectFolder(k))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	removed, err := Evict(k, 4500, now)
	if err != nil || removed != (Cached{Objects: 4, Bytes: 4000}) {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if d := cmp.Diff([]string{"1-hours.o", "2-hours.o", "6-hours.o", "no-object.txt", "now.o"}, have()); d != "" {
		t.Error(d)
	}
	if removed, err = Evict(k, 0, now); err != nil || removed.Objects != 2 {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if d := cmp.Diff([]string{"6-hours.o", "no-object.txt", "now.o"}, have()); d != "" {
		t.Error(d)
	}
	if size, err := CacheSize(k); err != nil || size != (Cached{Objects: 2, Bytes: 2000}) {
		t.Errorf("size %+v, %v", size, err)
	}
}
