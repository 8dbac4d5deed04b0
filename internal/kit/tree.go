package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// SourceTree returns the folder with every C file of one version of a
// linux-source package, unpacked once. It serves comparing a whole version
// with a kit's source; a single file is cheaper by SourceFiles. Errors are a
// *NotInArchiveError where the archive does not have the version.
func (c *Cache) SourceTree(ctx context.Context, ref Ref, version string) (string, error) {
	dir := filepath.Join(c.Dir, "sources", packagesOf(ref, version).source()+"_"+version+"-c")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("unpack source %s: %w", version, err)
	}
	unlock, err := Lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("unpack source %s: %w", version, err)
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	part := dir + ".part"
	err = errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755))
	if err == nil {
		err = c.unpackFiles(ctx, ref, version, part, []string{"*.c"})
	}
	if err == nil {
		err = os.Rename(part, dir) // whole or not at all
	}
	if err != nil {
		return "", fmt.Errorf("unpack source %s: %w", version, err)
	}
	return dir, nil
}
