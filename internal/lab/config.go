package lab

import (
	"errors"
	"fmt"
	"regexp"
)

// Config is what a lab is made of. Zero sizes take the defaults below.
type Config struct {
	Hosts []HostConfig `json:"hosts"`
	// Guest is the static lab-guest binary; Agent the static afloat-agent,
	// "" for guests without one.
	Guest string `json:"guest"`
	Agent string `json:"agent,omitempty"`
	// MemoryMB of each guest: at least 128, the kernel panics below 112.
	MemoryMB int `json:"memory_mb"`
	// DiskMB of each guest's data disk, sparse.
	DiskMB int `json:"disk_mb"`
	// Modules are loaded in each guest at boot, besides what it needs itself.
	Modules []string `json:"modules,omitempty"`
}

// HostConfig is one guest.
type HostConfig struct {
	Name   string `json:"name"`
	Kernel Kernel `json:"kernel"`
	// Seed is a folder that is copied to /data when the disk is made, or "".
	Seed string `json:"seed,omitempty"`
}

const (
	defaultMemoryMB = 224
	defaultDiskMB   = 96
)

// Hosts returns n hosts named h1, h2 ... that run kernel.
func Hosts(n int, kernel Kernel) []HostConfig {
	hosts := make([]HostConfig, n)
	for i := range hosts {
		hosts[i] = HostConfig{Name: fmt.Sprintf("h%d", i+1), Kernel: kernel}
	}
	return hosts
}

func (c Config) withDefaults() Config {
	if c.MemoryMB == 0 {
		c.MemoryMB = defaultMemoryMB
	}
	if c.DiskMB == 0 {
		c.DiskMB = defaultDiskMB
	}
	return c
}

var hostName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func (c Config) validate() error {
	switch {
	case len(c.Hosts) == 0:
		return errors.New("lab has no hosts")
	case c.Guest == "":
		return errors.New("lab has no guest helper")
	case c.MemoryMB < 128 || c.MemoryMB > 16384:
		return fmt.Errorf("%d MB of memory: want 128 to 16384", c.MemoryMB)
	case c.DiskMB < 16 || c.DiskMB > 16384:
		return fmt.Errorf("%d MB of disk: want 16 to 16384", c.DiskMB)
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if !hostName.MatchString(h.Name) {
			return fmt.Errorf("host name %q: want 1 to 32 of a-z, 0-9 and -", h.Name)
		}
		if seen[h.Name] {
			return fmt.Errorf("host %s is there twice", h.Name)
		}
		seen[h.Name] = true
	}
	return nil
}
