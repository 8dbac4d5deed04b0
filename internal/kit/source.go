package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// SourceFiles returns single files of one version of a linux-source package,
// such as linux-source-6.1 6.1.192-2, to make diffs from. They are kept in the
// cache. Errors are a *NotInArchiveError where the archive does not have it.
func (c *Cache) SourceFiles(ctx context.Context, ref Ref, version string, paths ...string) (map[string][]byte, error) {
	dir := filepath.Join(c.Dir, "sources", packagesOf(ref, version).source()+"_"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("read source %s: %w", version, err)
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return nil, fmt.Errorf("read source %s: %w", version, err)
	}
	defer unlock()
	files, missing, err := readAll(dir, paths)
	if err != nil || len(missing) == 0 {
		return files, err
	}
	if err := c.unpackFiles(ctx, ref, version, dir, missing); err != nil {
		return nil, fmt.Errorf("read source %s: %w", version, err)
	}
	files, missing, err = readAll(dir, paths)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("read source %s: it has no %s", version, strings.Join(missing, ", "))
	}
	return files, err
}

// readAll reads what is there of paths under dir.
func readAll(dir string, paths []string) (files map[string][]byte, missing []string, err error) {
	files = map[string][]byte{}
	for _, p := range paths {
		if !filepath.IsLocal(p) {
			return nil, nil, fmt.Errorf("read source: %q leaves the tree", p)
		}
		data, err := os.ReadFile(filepath.Join(dir, p))
		switch {
		case errors.Is(err, os.ErrNotExist):
			missing = append(missing, p)
		case err != nil:
			return nil, nil, fmt.Errorf("read source: %w", err)
		default:
			files[p] = data
		}
	}
	return files, missing, nil
}

// unpackFiles takes single files out of the package's tarball.
func (c *Cache) unpackFiles(ctx context.Context, ref Ref, version, dir string, paths []string) error {
	name := packagesOf(ref, version).source()
	temp, err := os.MkdirTemp(c.Dir, ".source-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	p := packages{version: version, names: []string{name}}
	if err := c.checkPackages(ctx, ref, p); err != nil {
		return err
	}
	debs, err := c.download(ctx, p, temp)
	if err != nil {
		return err
	}
	root := filepath.Join(temp, "root")
	if _, err := run(ctx, "", "dpkg", "-x", debs[0], root); err != nil {
		return err
	}
	args := []string{"--extract", "--use-compress-program=xz -T0", "--strip-components=1", "--wildcards",
		"--file=" + filepath.Join(root, "usr/src", name+".tar.xz")}
	for _, path := range paths {
		args = append(args, "linux-source-*/"+path)
	}
	_, err = run(ctx, dir, "tar", args...)
	return err
}
