package lab

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func smallConfig() Config {
	k := Kernel{Name: "debian:6.1.0-55-amd64", Release: "6.1.0-55-amd64", Vmlinux: "/k/vmlinux", ModulesDir: "/k/modules"}
	return Config{Hosts: Hosts(2, k), Guest: "/bin/lab-guest"}.withDefaults()
}

func TestStateSurvivesTheDisk(t *testing.T) {
	s, err := newState(smallConfig())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := s.write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
	if _, err := readState(t.TempDir()); !errors.Is(err, ErrNoLab) {
		t.Errorf("empty folder: %v, want ErrNoLab", err)
	}
}

func TestBrokenStateIsRefused(t *testing.T) {
	good, err := newState(smallConfig())
	if err != nil {
		t.Fatal(err)
	}
	change := func(f func(*state)) string {
		s := good
		s.Hosts = append([]hostState(nil), good.Hosts...)
		s.Config.Hosts = append([]HostConfig(nil), good.Config.Hosts...)
		f(&s)
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, test := range map[string]struct{ raw, want string }{
		"empty":         {"", "at byte 0"},
		"half":          {`{"version": 1, "hosts": [`, "unexpected EOF"},
		"not an object": {`[1]`, "cannot unmarshal"},
		"unknown field": {`{"version": 1, "pids": [3]}`, `unknown field "pids"`},
		"two values":    {change(func(*state) {}) + "{}", "more than one value"},
		"newer":         {change(func(s *state) { s.Version = 2 }), "version 2, want 1"},
		"no hosts":      {change(func(s *state) { s.Config.Hosts = nil }), "no hosts"},
		"a host short":  {change(func(s *state) { s.Hosts = s.Hosts[:1] }), "ports of 1 hosts, want 2"},
		"port 0":        {change(func(s *state) { s.ProxyPort = 0 }), "port 0 is out of range"},
		"same port":     {change(func(s *state) { s.Hosts[0].ControlPort = s.ProxyPort }), "is used twice"},
		"path as name":  {change(func(s *state) { s.Config.Hosts[0].Name = "../h1" }), `host name "../h1"`},
		"twin":          {change(func(s *state) { s.Config.Hosts[1].Name = "h1" }), "h1 is there twice"},
	} {
		if _, err := decodeState([]byte(test.raw)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

func FuzzState(f *testing.F) {
	s, err := newState(smallConfig())
	if err != nil {
		f.Fatal(err)
	}
	raw, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := decodeState(raw)
		if err == nil && len(s.Hosts) != len(s.Config.Hosts) {
			t.Errorf("accepted %d ports for %d hosts", len(s.Hosts), len(s.Config.Hosts))
		}
	})
}

func TestNewRefusesWhatCannotBoot(t *testing.T) {
	script := filepath.Join(t.TempDir(), "vmlinuz")
	if err := os.WriteFile(script, []byte("MZ not an ELF file"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"compressed kernel": {func(c *Config) { c.Hosts[0].Kernel.Vmlinux = script }, "is not an ELF file"},
		"no kernel":         {func(c *Config) { c.Hosts[0].Kernel = Kernel{} }, "host h1: kernel has no release"},
		"missing kernel":    {func(*Config) {}, "no such file"},
		"little memory":     {func(c *Config) { c.MemoryMB = 64 }, "64 MB of memory"},
		"little disk":       {func(c *Config) { c.DiskMB = 1 }, "1 MB of disk"},
		"no helper":         {func(c *Config) { c.Guest = "" }, "no guest helper"},
	} {
		cfg := smallConfig()
		test.change(&cfg)
		dir := filepath.Join(t.TempDir(), "lab")
		if _, err := New(dir, cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a refused lab left a folder", name)
		}
	}
}

func TestFreePortsAreDifferentAndFree(t *testing.T) {
	ports, err := freePorts(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < portLow || p >= portHigh {
			t.Errorf("port %d comes twice or is out of range", p)
		}
		seen[p] = true
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(p))
		if err != nil {
			t.Errorf("port %d is not free: %v", p, err)
			continue
		}
		defer l.Close()
	}
}
