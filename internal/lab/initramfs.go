package lab

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

//go:embed lab-agent.sh
var agentScript []byte

const inittab = `::respawn:/bin/lab-guest control
::respawn:/bin/lab-guest workload
::respawn:/bin/lab-agent
::ctrlaltdel:/bin/reboot -f
`

// bootModules are what a guest needs to reach its disk and networks; a kernel
// that has some of them built in ships no file for those. crc32c_generic is
// ext4's checksum, which it asks for by algorithm and not as a dependency.
var bootModules = []string{"virtio_pci", "virtio_net", "virtio_blk", "crc32c_generic", "ext4"}

// contents is what goes into a guest's initramfs besides its kernel's modules.
type contents struct {
	guest   string   // path of the static lab-guest binary
	agent   string   // path of the static afloat-agent binary, "" for none
	modules []string // further modules to load at boot
}

// writeInitramfs writes the archive for one kernel to path, uncompressed:
// under TCG the guest would unpack it slower than QEMU copies it.
func writeInitramfs(path string, k Kernel, c contents) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	a := newArchive(w)
	if err := errors.Join(addBase(a), addPrograms(a, c), addModules(a, k, c.modules)); err != nil {
		return fmt.Errorf("write initramfs of %s: %w", k.Release, err)
	}
	return errors.Join(a.close(), w.Flush(), f.Close())
}

func addBase(a *archive) error {
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "data", "etc/afloat", "var/lib/afloat", "root"} {
		a.dir(dir)
	}
	a.char("dev/console", 5, 1)
	a.char("dev/null", 1, 3)
	a.file("init", 0o755, initScript)
	a.file("etc/inittab", 0o644, []byte(inittab))
	a.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	a.file("etc/group", 0o644, []byte("root:x:0:\n"))
	a.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n10.0.2.2 lab\n"))
	for _, dir := range []string{"sbin", "usr/bin", "usr/sbin"} {
		a.symlink(dir, "/bin")
	}
	return a.err
}

func addPrograms(a *archive, c contents) error {
	busybox, err := lookup("busybox")
	if err != nil {
		return err
	}
	add := func(name, path string) error {
		content, err := os.ReadFile(path)
		if err == nil {
			a.file(name, 0o755, content)
		}
		return err
	}
	a.file("bin/lab-agent", 0o755, agentScript)
	err = errors.Join(add("bin/busybox", busybox), add("bin/lab-guest", c.guest))
	a.symlink("bin/sh", "busybox")
	if c.agent != "" {
		err = errors.Join(err, add("bin/afloat-agent", c.agent))
	}
	return err
}

// addModules adds the modules to load, and their order as /etc/lab/modules.
func addModules(a *archive, k Kernel, extra []string) error {
	tree, err := openModules(k.ModulesDir)
	if err != nil {
		return err
	}
	want := slices.DeleteFunc(slices.Clone(bootModules), func(m string) bool { return !tree.has(m) })
	want = append(want, extra...)
	order, err := tree.loadOrder(want...)
	if err != nil {
		return err
	}
	carry := order
	if tree.has("ramoops") {
		// It takes parameters, so init.sh loads it after what it needs.
		if carry, err = tree.loadOrder(append(want, "ramoops")...); err != nil {
			return err
		}
		order = slices.DeleteFunc(slices.Clone(carry), func(m string) bool { return m == "ramoops" })
	}
	a.file("etc/lab/modules", 0o644, []byte(strings.Join(order, "\n")+"\n"))
	for _, name := range carry {
		content, err := tree.read(name)
		if err != nil {
			return err
		}
		a.file(filepath.Join("lib/modules", name+".ko"), 0o644, content)
	}
	return nil
}
