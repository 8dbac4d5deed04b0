package kbuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kit"
)

// Builder compiles objects of one kit.
type Builder struct {
	Kit *kit.Kit
	// Parallel compilations; 0 means one per CPU.
	Parallel int
	// NoCache compiles even what the cache holds, and does not add to it.
	NoCache bool
}

// Pair is one object before and after the patch, as paths of files that the caller may read.
type Pair struct {
	Unit     Unit
	Original string
	Patched  string
}

// CompileError is what the compiler, or objtool, said about a source file.
type CompileError struct {
	Source string
	// Patched says that the patched source did not compile, which is its
	// author's to mend; else the kit could not make the original.
	Patched bool
	Output  string
	Err     error
}

func (e *CompileError) Error() string {
	what := "original"
	if e.Patched {
		what = "patched"
	}
	return fmt.Sprintf("compile %s %s: %v\n%s", what, e.Source, e.Err, strings.TrimRight(e.Output, "\n"))
}

func (e *CompileError) Unwrap() error { return e.Err }

// extraFlags put every function and variable in a section of its own, which
// is what makes two objects comparable piece by piece.
func extraFlags() []string { return []string{"-ffunction-sections", "-fdata-sections"} }

// treeFolder is where a working folder holds the patched tree.
const treeFolder = "tree"

// Compile makes both objects of every unit: the originals from the kit's tree,
// the patched ones with files (path in the tree to patched content) in their
// place, and afloat-patch.h within reach. Temporary files go to work, which must exist; the results are in it or
// in the kit's cache. Errors are a *CompileError where a compiler said no.
func (b *Builder) Compile(ctx context.Context, work string, units []Unit, files map[string][]byte) ([]Pair, error) {
	files = withHeader(files)
	tree := filepath.Join(work, treeFolder)
	if _, err := os.Stat(tree); errors.Is(err, os.ErrNotExist) {
		if err := plantTree(tree, b.Kit.Source(), files, crooked(units)); err != nil {
			return nil, err
		}
	}
	pairs := make([]Pair, len(units))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.Jobs())
	patch := digestFiles(files)
	for i, u := range units {
		pairs[i].Unit = u
		group.Go(func() (err error) {
			pairs[i].Original, err = b.object(ctx, job{unit: u, tree: b.Kit.Source(), out: filepath.Join(work, "original"), extra: extraFlags()})
			return err
		})
		group.Go(func() (err error) {
			pairs[i].Patched, err = b.object(ctx, job{unit: u, tree: tree, out: filepath.Join(work, "patched"), extra: extraFlags(), patch: patch})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if b.NoCache {
		return pairs, nil
	}
	_, err := Evict(b.Kit, MaxCached, time.Now())
	return pairs, err
}

// crooked lists the folders that the units' commands reach by going up.
func crooked(units []Unit) []string {
	var folders []string
	for _, u := range units {
		for _, f := range append(searched(u), path.Dir(u.Source)) {
			if path.Clean(f) != strings.TrimPrefix(f, "./") {
				folders = append(folders, f)
			}
		}
	}
	return folders
}

// Jobs is how many compilations run at once.
func (b *Builder) Jobs() int {
	if b.Parallel > 0 {
		return b.Parallel
	}
	return runtime.NumCPU()
}

// Plain compiles the original object exactly as the kernel's own build does.
func (b *Builder) Plain(ctx context.Context, work string, u Unit) (string, error) {
	return b.object(ctx, job{unit: u, tree: b.Kit.Source(), out: filepath.Join(work, "plain")})
}

// job is one compilation.
type job struct {
	unit  Unit
	tree  string   // folder that the compiler runs in
	out   string   // folder that the object goes to
	extra []string // flags on top of the kernel's own
	patch []byte   // digest of the patched files; nil for an original
}

// object returns the path of one compiled object, from the cache if it is there.
func (b *Builder) object(ctx context.Context, j job) (string, error) {
	cached := filepath.Join(objectFolder(b.Kit), b.key(j)+".o")
	if !b.NoCache && lookUp(cached, time.Now()) {
		return cached, nil
	}
	u, out := j.unit, filepath.Join(j.out, j.unit.Object)
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", fmt.Errorf("compile %s: %w", u.Source, err)
	}
	if err := b.compile(ctx, j, out); err != nil {
		return "", err
	}
	if u.Objtool != nil {
		// objtool is not told which tree it works for: it reads and writes the object alone.
		if err := b.run(ctx, j, b.Kit.Source(), slices.Concat(u.Objtool, []string{out})); err != nil {
			return "", err
		}
	}
	if b.NoCache {
		return out, nil
	}
	return out, keep(out, cached)
}

// compile runs the compiler. Where the original lacks a file that the kernel's
// build generates for some folders only, make is asked for the object once: that
// brings the file, for every later build too.
func (b *Builder) compile(ctx context.Context, j job, out string) error {
	argv := slices.Concat(j.unit.Compile, j.extra, []string{"-c", "-o", out, j.unit.Source})
	err := b.run(ctx, j, j.tree, argv)
	e, ok := errors.AsType[*CompileError](err)
	if !ok || !strings.Contains(e.Output, "fatal error:") || !strings.Contains(e.Output, "No such file or directory") {
		return err
	}
	made, merr := b.generate(ctx, j.unit)
	if merr != nil {
		return fmt.Errorf("%w; generating what it needs: %w", err, merr)
	}
	if !made {
		return err
	}
	if j.patch != nil {
		if err := linkNew(j.tree, b.Kit.Source(), filepath.Dir(j.unit.Source)); err != nil {
			return err
		}
	}
	return b.run(ctx, j, j.tree, argv)
}

// generate lets make build the original object in the kit's tree, for the files
// that come with it; false if that was done before.
func (b *Builder) generate(ctx context.Context, u Unit) (bool, error) {
	if b.Kit.Shared() {
		return false, fmt.Errorf("the kit in %s is shared and lacks it; a build of the same file by its owner makes it", b.Kit.Dir)
	}
	mark := filepath.Join(b.Kit.Cache(), "generated", strings.ReplaceAll(path.Clean(u.Object), "/", "_"))
	if err := os.MkdirAll(filepath.Dir(mark), 0o755); err != nil {
		return false, err
	}
	unlock, err := kit.Lock(ctx, filepath.Join(b.Kit.Cache(), "make.lock"))
	if err != nil {
		return false, err
	}
	defer unlock()
	if _, err := os.Stat(mark); err == nil {
		return true, nil // by the other side of the pair, or another build
	}
	j := job{unit: u}
	argv := slices.Concat([]string{"make"}, kit.MakeArgs(b.Kit.Dir, b.Kit.Compiler, b.Kit.ID), []string{path.Clean(u.Object)})
	if err := b.run(ctx, j, b.Kit.Source(), argv); err != nil {
		return false, err
	}
	return true, os.WriteFile(mark, nil, 0o644)
}

// keep copies an object into the cache, whole or not at all.
func keep(object, cached string) error {
	if err := os.MkdirAll(filepath.Dir(cached), 0o755); err != nil {
		return fmt.Errorf("cache object: %w", err)
	}
	data, err := os.ReadFile(object)
	if err != nil {
		return fmt.Errorf("cache object: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(cached), ".new-*")
	if err != nil {
		return fmt.Errorf("cache object: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cache object: %w", err)
	}
	if err := os.Rename(f.Name(), cached); err != nil {
		return fmt.Errorf("cache object: %w", err)
	}
	return nil
}

// key names an object by all that decides its content: the kernel and its
// tree, the compiler, the commands, and the patched files.
func (b *Builder) key(j job) string {
	h := sha256.New()
	for _, part := range slices.Concat([]string{"1", b.Kit.ID.BuildID, b.Kit.ID.Version, b.Kit.CompilerText, j.unit.Source},
		j.unit.Compile, j.extra, j.unit.Objtool) {
		io.WriteString(h, part)
		h.Write([]byte{0})
	}
	h.Write(j.patch)
	return hex.EncodeToString(h.Sum(nil))
}

// digestFiles hashes the patched files with their names, in order of name.
func digestFiles(files map[string][]byte) []byte {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		content := sha256.Sum256(files[name])
		fmt.Fprintf(h, "%s\x00%v\x00%x\n", name, files[name] == nil, content)
	}
	return h.Sum(nil)
}

func (b *Builder) run(ctx context.Context, j job, dir string, argv []string) error {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = dir, kit.Environ(os.Environ())
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("compile %s: %w", j.unit.Source, context.Cause(ctx))
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return fmt.Errorf("compile %s: %w", j.unit.Source, err)
	}
	return &CompileError{Source: j.unit.Source, Patched: j.patch != nil, Output: out.String(), Err: err}
}
