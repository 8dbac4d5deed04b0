// Package boot tells one boot of this machine from another: the boot id, the
// time since boot and the identity of the running kernel.
package boot

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"afloat/internal/kernel"

	"golang.org/x/sys/unix"
)

var idPattern = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// ID is the kernel's boot id; it is another one after every boot.
func ID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if !idPattern.MatchString(id) {
		return "", fmt.Errorf("read boot id: %.50q is not one", id)
	}
	return id, nil
}

// Uptime is CLOCK_BOOTTIME: time since boot, suspend included.
func Uptime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("read boot clock: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// Kernel is the identity of the running kernel; every part of it is there.
func Kernel() (kernel.ID, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return kernel.ID{}, fmt.Errorf("read kernel identity: uname: %w", err)
	}
	notes, err := os.ReadFile("/sys/kernel/notes")
	if err != nil {
		return kernel.ID{}, fmt.Errorf("read kernel identity: %w", err)
	}
	build, ok := kernel.ParseBuildID(notes)
	if !ok {
		return kernel.ID{}, errors.New("read kernel identity: /sys/kernel/notes has no build id")
	}
	id := kernel.ID{Release: unix.ByteSliceToString(u.Release[:]), Version: unix.ByteSliceToString(u.Version[:]), BuildID: build}
	return id, id.Validate()
}

// Machine is this machine, for whoever takes one as an interface.
type Machine struct{}

// Boot is ID.
func (Machine) Boot() (string, error) { return ID() }

// Uptime is Uptime.
func (Machine) Uptime() (time.Duration, error) { return Uptime() }

// Kernel is Kernel.
func (Machine) Kernel() (kernel.ID, error) { return Kernel() }
