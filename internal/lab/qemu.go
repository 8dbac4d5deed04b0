package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"afloat/internal/lab/guestwire"
)

const (
	qmpSocket  = "qmp.sock"
	consoleLog = "console.log"
	qemuLog    = "qemu.log"
	diskFile   = "data.ext4"
	cutMark    = "cut" // present while the link is down
)

// machine is one guest's QEMU.
type machine struct {
	dir       string // the host's own folder; QEMU runs in it
	mark      string // what its process is told apart by
	host      string
	vmlinux   string
	initramfs string
	memoryMB  int
	workload  int // ports on 127.0.0.1
	control   int
}

// ramoopsMB is where the kernel keeps its crash log over a reset, see init.sh.
const ramoopsMB = 128

func (m machine) argv(qemu string) []string {
	// eth0 (slot 4) is the fleet's network. eth1 (slot 5) is the lab's: it
	// stays when eth0 is cut, and "restrict" keeps the guest from using it.
	return []string{qemu,
		"-name", m.mark,
		"-accel", "tcg,tb-size=64", "-cpu", "max", "-M", "pc", "-bios", "qboot.rom",
		"-m", strconv.Itoa(m.memoryMB), "-smp", "1",
		"-display", "none", "-monitor", "none", "-nodefaults", "-no-user-config",
		"-chardev", "file,id=con,path=" + consoleLog + ",append=on", "-serial", "chardev:con",
		"-qmp", "unix:" + qmpSocket + ",server=on,wait=off",
		"-kernel", m.vmlinux, "-initrd", m.initramfs,
		"-append", m.cmdline(),
		// Writes reach the host's page cache, so they survive the end of QEMU.
		"-drive", "if=none,id=d0,format=raw,cache=unsafe,file=" + diskFile,
		"-device", "virtio-blk-pci,drive=d0,addr=0x6",
		"-netdev", fmt.Sprintf("user,id=n0,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:%d", m.workload, guestwire.WorkloadPort),
		"-device", "virtio-net-pci,netdev=n0,romfile=,addr=0x4",
		"-netdev", fmt.Sprintf("user,id=n1,net=10.0.3.0/24,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.3.15:%d", m.control, guestwire.ControlPort),
		"-device", "virtio-net-pci,netdev=n1,romfile=,addr=0x5",
	}
}

// cmdline keeps the boot quiet, which saves a second of serial output under
// TCG; init.sh raises the console to every level. Without panic= a crashed
// kernel would stand still.
func (m machine) cmdline() string {
	line := "console=ttyS0 quiet panic=3 rdinit=/init net.ifnames=0 lab.host=" + m.host
	if khz := tscKHz(); khz != 0 {
		line += fmt.Sprintf(" tsc_early_khz=%d", khz)
	}
	if m.memoryMB > ramoopsMB+1 {
		line += fmt.Sprintf(" memmap=1M$%#x", ramoopsMB<<20)
	}
	return line
}

func (m machine) process() process {
	return process{program: "qemu-system-x86_64", marker: m.mark}
}

// start powers the guest on. Its link is up, whatever it was.
func (m machine) start() error {
	if m.process().pid() != 0 {
		return nil
	}
	qemu, err := lookup("qemu-system-x86_64")
	if err != nil {
		return err
	}
	for _, stale := range []string{qmpSocket, qemuLog, cutMark} {
		if err := removeIfThere(filepath.Join(m.dir, stale)); err != nil {
			return fmt.Errorf("clear host folder: %w", err)
		}
	}
	return startDetached(m.dir, filepath.Join(m.dir, qemuLog), m.argv(qemu)...)
}

// powerOff takes the guest's power away: nothing is flushed or told.
func (m machine) powerOff(ctx context.Context) error {
	return m.process().stop(ctx, unix.SIGKILL, 0)
}

// setLink connects or cuts the fleet's network; the lab's own stays.
func (m machine) setLink(ctx context.Context, up bool) error {
	if err := qmp(ctx, m.dir, "set_link", map[string]any{"name": "n0", "up": up}); err != nil {
		return err
	}
	if up {
		return removeIfThere(filepath.Join(m.dir, cutMark))
	}
	return os.WriteFile(filepath.Join(m.dir, cutMark), nil, 0o644)
}

func (m machine) isCut() bool {
	_, err := os.Stat(filepath.Join(m.dir, cutMark))
	return err == nil
}

// reset presses the reset button; QEMU itself keeps running.
func (m machine) reset(ctx context.Context) error {
	return qmp(ctx, m.dir, "system_reset", nil)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
