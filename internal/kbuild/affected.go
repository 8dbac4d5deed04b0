package kbuild

import (
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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"afloat/internal/kit"
)

// MaxAffected is how many sources may include what a patch changes: each is
// preprocessed twice, at a fraction of a second, and compiled twice if that differs.
const MaxAffected = 1500

// TooManyError says that too many objects include what a patch changes.
type TooManyError struct {
	Files   []string
	Objects int
}

func (e *TooManyError) Error() string {
	return "cannot live patch " + strings.Join(e.Files, ", ") + ": " + e.Why()
}

// Why is the reason without the files' names before it.
func (e *TooManyError) Why() string {
	return fmt.Sprintf("touches %s objects through %s, more than the %s that a build looks at",
		grouped(e.Objects), strings.Join(e.Files, ", "), grouped(MaxAffected))
}

// grouped prints 23,530.
func grouped(n int) string {
	s := strconv.Itoa(n)
	for at := len(s) - 3; at > 0; at -= 3 {
		s = s[:at] + "," + s[at:]
	}
	return s
}

// Affected plants the patched tree in work, where a later Compile finds it, and
// returns the units that are not among known, whose source may
// include one of the changed headers, and whose preprocessed text differs with
// the patched files in place. Errors are a *TooManyError where they are too many to look at.
func (b *Builder) Affected(ctx context.Context, x *Index, g *Includes, headers []string, known []Unit, work string, files map[string][]byte, progress func(string)) ([]Unit, error) {
	var candidates []Unit
	closure := g.closure(headers)
	for _, source := range g.users(x, closure, headers) {
		for _, u := range x.units[source] {
			if !slices.ContainsFunc(known, func(k Unit) bool { return k.Object == u.Object }) {
				candidates = append(candidates, u)
			}
		}
	}
	if len(candidates) > MaxAffected {
		return nil, &TooManyError{Files: headers, Objects: len(candidates)}
	}
	files = withHeader(files)
	tree := filepath.Join(work, treeFolder)
	if err := plantTree(tree, b.Kit.Source(), files, folders(closure, candidates)); err != nil {
		return nil, err
	}
	differs := make([]bool, len(candidates))
	var done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.Jobs())
	for i, u := range candidates {
		group.Go(func() (err error) {
			differs[i], err = b.differs(ctx, u, tree)
			if n := done.Add(1); n%100 == 0 {
				progress(fmt.Sprintf("%d of %d sources that may include it looked at", n, len(candidates)))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var out []Unit
	for i, u := range candidates {
		if differs[i] {
			out = append(out, u)
		}
	}
	return out, nil
}

// folders lists from where a path that goes up may lead to a changed file: the
// folders of all that includes it, and those that the compiler searches.
func folders(closure map[string]bool, units []Unit) []string {
	seen := map[string]bool{}
	for file := range closure {
		seen[path.Dir(file)] = true
	}
	for _, u := range units {
		seen[path.Dir(u.Source)] = true
		for _, f := range searched(u) {
			seen[f] = true
		}
	}
	return sorted(seen)
}

// differs compares a source's preprocessed text in both trees, without the
// marks that tell lines, so that lines which only move do not count.
func (b *Builder) differs(ctx context.Context, u Unit, tree string) (bool, error) {
	was, err := b.preprocess(ctx, u, b.Kit.Source())
	if err != nil {
		if _, ok := errors.AsType[*CompileError](err); ok {
			return false, nil // it lacks a generated file, and so has no object here
		}
		return false, err
	}
	is, err := b.preprocess(ctx, u, tree)
	if e, ok := errors.AsType[*CompileError](err); ok {
		e.Patched = true
	}
	return was != is, err
}

func (b *Builder) preprocess(ctx context.Context, u Unit, tree string) (string, error) {
	argv := slices.Concat(u.Compile, []string{"-E", "-P", "-o", "-", u.Source})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = tree, kit.Environ(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	sum := sha256.New()
	said := &limited{max: 1 << 16}
	cmd.Stdout, cmd.Stderr = sum, said
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); ok && ctx.Err() == nil {
		return "", &CompileError{Source: u.Source, Output: string(said.text), Err: err}
	}
	if err != nil {
		return "", fmt.Errorf("preprocess %s: %w", u.Source, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// limited keeps the first bytes of what is written to it.
type limited struct {
	text []byte
	max  int
}

var _ io.Writer = (*limited)(nil)

func (l *limited) Write(p []byte) (int, error) {
	l.text = append(l.text, p[:min(len(p), l.max-len(l.text))]...)
	return len(p), nil
}
