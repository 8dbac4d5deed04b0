package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// makeDisk writes a sparse ext4 image of mb MiB that holds a copy of seed, or
// nothing when seed is "". mke2fs -d needs neither root nor a loop device.
func makeDisk(ctx context.Context, path string, mb int, seed string) error {
	mke2fs, err := lookup("mke2fs")
	if err != nil {
		return err
	}
	// Debian 12's kernel is older than some options of newer e2fsprogs.
	args := []string{"-q", "-F", "-t", "ext4", "-O", "^metadata_csum_seed,^orphan_file",
		"-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"}
	if seed != "" {
		args = append(args, "-d", seed)
	}
	tmp := path + ".new"
	out, err := exec.CommandContext(ctx, mke2fs, append(args, tmp, fmt.Sprintf("%dM", mb))...).CombinedOutput()
	if err != nil {
		return errors.Join(fmt.Errorf("make disk %s: %w: %s", filepath.Base(path), err, strings.TrimSpace(string(out))), removeIfThere(tmp))
	}
	return os.Rename(tmp, path)
}
