package kit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// realTime is the flavour whose tree is that of linux-source with a patch
// series on top, which only the source package carries.
const realTime = "rt-amd64"

// seriesDir is the folder of the series in the source package, with a file
// "series" that names its patches in order, as quilt has it.
const seriesDir = "debian/patches-rt"

// SeriesError is a patch of a source package's series that does not apply to
// the tree of the same version.
type SeriesError struct {
	Patch  string
	File   string // "" where the patch program named none
	Hunk   int    // from 1; 0 for the file as a whole
	Output string // what the patch program said was wrong
	Err    error
}

func (e *SeriesError) Error() string {
	where := e.Patch
	if e.File != "" {
		where += ": " + e.File
	}
	if e.Hunk > 0 {
		where += ": hunk " + strconv.Itoa(e.Hunk)
	}
	return fmt.Sprintf("cannot apply the real-time series: %s: patch: %v\n%s", where, e.Err, e.Output)
}

func (e *SeriesError) Unwrap() error { return e.Err }

// applySeries applies the series of a source package's debian.tar to the
// unpacked tree. The caller begins with a new tree where it fails.
func (m *maker) applySeries(ctx context.Context) error {
	dir := m.path("series")
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return err
	}
	if _, err := run(ctx, dir, "tar", "--extract", "--file="+m.series); err != nil {
		return err
	}
	folder := filepath.Join(dir, seriesDir)
	text, err := os.ReadFile(filepath.Join(folder, "series"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s has no %s/series: what its real-time kernel is built from is not known", filepath.Base(m.series), seriesDir)
	}
	if err != nil {
		return err
	}
	names, err := parseSeries(text)
	if err != nil {
		return fmt.Errorf("%s: %s/series: %w", filepath.Base(m.series), seriesDir, err)
	}
	for _, name := range names {
		if err := applyPatch(ctx, m.kit.Source(), filepath.Join(folder, name), name); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// parseSeries reads a quilt series: a patch's name on each line, and how many
// folders to strip, which must be one; the rest of a line after # is a comment.
func parseSeries(text []byte) ([]string, error) {
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case len(f) > 2 || len(f) == 2 && f[1] != "-p1":
			return nil, fmt.Errorf("line %d: want the name of a patch, and nothing else but -p1, not %q", n, lines.Text())
		case !filepath.IsLocal(f[0]):
			return nil, fmt.Errorf("line %d: %q leaves the folder", n, f[0])
		default:
			names = append(names, f[0])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("it names no patch")
	}
	return names, nil
}

// applyPatch runs the patch program as Debian's own build does: each line of
// context must be there, though it may have moved. It knows git's renames,
// modes, new and deleted files.
func applyPatch(ctx context.Context, tree, file, name string) error {
	out, err := command(ctx, tree, "patch", "--batch", "--forward", "--fuzz=0", "--strip=1", "--remove-empty-files",
		"--no-backup-if-mismatch", "--reject-file=-", "--quoting-style=literal", "--input="+file).CombinedOutput()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("apply %s: %w", name, context.Cause(ctx))
	}
	return seriesError(name, string(out), err)
}

// seriesError reads what the patch program said: a file by name as it comes to
// it, then what is wrong with that. The first that is wrong counts.
func seriesError(name, said string, err error) *SeriesError {
	e := &SeriesError{Patch: name, Err: err}
	var wrong []string
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		file, fits := strings.CutPrefix(line, "patching file ")
		if fits && len(wrong) == 0 {
			e.File, _, _ = strings.Cut(file, " (")
		}
		if fits || strings.Contains(line, " succeeded at ") {
			continue
		}
		if len(wrong) == 0 {
			e.Hunk = failedHunk(line)
		}
		if file := fileOf(line); file != "" && e.Hunk == 0 {
			e.File = file
		}
		wrong = append(wrong, line)
	}
	e.Output = strings.Join(wrong[:min(len(wrong), 15)], "\n")
	return e
}

// failedHunk is the number in "Hunk #2 FAILED at 37."; 0 for other lines.
func failedHunk(line string) int {
	number, failed := strings.CutSuffix(strings.Split(line+" at ", " at ")[0], " FAILED")
	if !failed {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimPrefix(number, "Hunk #"))
	return n
}

// fileOf is the file that the patch program names where it cannot begin with
// it: one that is missing, by the patch's own header, or one that is there already.
func fileOf(line string) string {
	if file, ok := strings.CutPrefix(line, "|+++ b/"); ok {
		file, _, _ = strings.Cut(file, "\t")
		return file
	}
	if file, ok := strings.CutPrefix(line, "The next patch would create the file "); ok {
		return strings.TrimSuffix(file, ",")
	}
	return ""
}
