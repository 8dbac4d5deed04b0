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

// features of the disk, named one by one: the guest's kernel may be older than
// this machine's e2fsprogs and its defaults, or younger.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// makeDisk writes a sparse ext4 image of mb MiB that holds a copy of seed, or
// nothing when seed is "". mke2fs -d needs neither root nor a loop device.
func makeDisk(ctx context.Context, path string, mb int, seed string) error {
	mke2fs, err := lookup("mke2fs")
	if err != nil {
		return err
	}
	args := []string{"-q", "-F", "-t", "ext4", "-O", features, "-E",
		"lazy_itable_init=1,nodiscard,root_owner=0:0"}
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
