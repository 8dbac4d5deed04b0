package lab

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// archive writes an initramfs in the "newc" cpio format, the only one the
// kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
// Parent directories are added on their own. The first error sticks and is
// returned by close.
type archive struct {
	w    io.Writer
	dirs map[string]bool
	ino  int
	off  int64
	err  error
}

const (
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

func newArchive(w io.Writer) *archive {
	return &archive{w: w, dirs: map[string]bool{".": true, "/": true}}
}

// file adds a regular file with the given permission bits.
func (a *archive) file(name string, perm uint32, content []byte) {
	a.parents(name)
	a.entry(name, modeFile|perm, content, 0, 0)
}

// symlink adds name as a symbolic link to target.
func (a *archive) symlink(name, target string) {
	a.parents(name)
	a.entry(name, modeSymlink|0o777, []byte(target), 0, 0)
}

// dir adds a directory unless it is there already.
func (a *archive) dir(name string) {
	name = clean(name)
	if a.dirs[name] {
		return
	}
	a.parents(name)
	a.dirs[name] = true
	a.entry(name, modeDir|0o755, nil, 0, 0)
}

// char adds a character device.
func (a *archive) char(name string, major, minor int) {
	a.parents(name)
	a.entry(name, modeChar|0o600, nil, major, minor)
}

// close writes the end mark and returns the first error of the archive.
func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.err
}

func clean(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }

func (a *archive) parents(name string) {
	if p := path.Dir(clean(name)); !a.dirs[p] {
		a.dir(p)
	}
}

func (a *archive) entry(name string, mode uint32, content []byte, major, minor int) {
	if a.err != nil {
		return
	}
	if int64(len(content)) > 0xffffffff {
		a.err = fmt.Errorf("archive %s: larger than 4 GiB", name)
		return
	}
	name = clean(name)
	a.ino++
	links := 1
	if mode&modeDir == modeDir {
		links = 2
	}
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.ino, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.put([]byte(head + name + "\x00"))
	a.pad()
	a.put(content)
	a.pad()
}

func (a *archive) put(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.off += int64(n)
	if err != nil {
		a.err = fmt.Errorf("write initramfs: %w", err)
	}
}

func (a *archive) pad() {
	if rest := a.off % 4; rest != 0 {
		a.put(make([]byte, 4-rest))
	}
}
