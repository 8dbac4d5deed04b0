package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// stateVersion is the format of lab.json.
const stateVersion = 1

// ErrNoLab says that a folder holds no lab.
var ErrNoLab = errors.New("no lab here")

// state is what later commands need to know of a lab. Processes are not in
// it: they are found by their arguments.
type state struct {
	Version   int         `json:"version"`
	Config    Config      `json:"config"`
	Hosts     []hostState `json:"hosts"`
	ProxyPort int         `json:"proxy_port"`
	// Two more, kept for an afloat server: HTTPS and NATS.
	ServerPorts [2]int `json:"server_ports"`
}

// hostState is one host's ports on 127.0.0.1, in the order of Config.Hosts.
type hostState struct {
	WorkloadPort int `json:"workload_port"`
	ControlPort  int `json:"control_port"`
}

func statePath(dir string) string { return filepath.Join(dir, "lab.json") }

func readState(dir string) (state, error) {
	raw, err := os.ReadFile(statePath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return state{}, fmt.Errorf("open lab %s: %w", dir, ErrNoLab)
	}
	if err != nil {
		return state{}, fmt.Errorf("open lab: %w", err)
	}
	s, err := decodeState(raw)
	if err != nil {
		return state{}, fmt.Errorf("open lab: %s: %w", statePath(dir), err)
	}
	return s, nil
}

func decodeState(raw []byte) (state, error) {
	var s state
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return state{}, fmt.Errorf("at byte %d: %w", dec.InputOffset(), err)
	}
	if dec.More() {
		return state{}, fmt.Errorf("at byte %d: more than one value", dec.InputOffset())
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("version %d, want %d", s.Version, stateVersion)
	}
	if err := s.Config.validate(); err != nil {
		return state{}, err
	}
	return s, s.checkPorts()
}

func (s state) checkPorts() error {
	if len(s.Hosts) != len(s.Config.Hosts) {
		return fmt.Errorf("ports of %d hosts, want %d", len(s.Hosts), len(s.Config.Hosts))
	}
	ports := []int{s.ProxyPort, s.ServerPorts[0], s.ServerPorts[1]}
	for _, h := range s.Hosts {
		ports = append(ports, h.WorkloadPort, h.ControlPort)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if p <= 0 || p > 65535 {
			return fmt.Errorf("port %d is out of range", p)
		}
		if seen[p] {
			return fmt.Errorf("port %d is used twice", p)
		}
		seen[p] = true
	}
	return nil
}

func (s state) write(dir string) error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("save lab: %w", err)
	}
	tmp := statePath(dir) + ".new"
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("save lab: %w", err)
	}
	return os.Rename(tmp, statePath(dir))
}

// newState gives each host its ports.
func newState(cfg Config) (state, error) {
	ports, err := freePorts(3 + 2*len(cfg.Hosts))
	if err != nil {
		return state{}, err
	}
	s := state{Version: stateVersion, Config: cfg, ProxyPort: ports[0], ServerPorts: [2]int{ports[1], ports[2]}}
	for i := range cfg.Hosts {
		s.Hosts = append(s.Hosts, hostState{WorkloadPort: ports[3+2*i], ControlPort: ports[4+2*i]})
	}
	return s, nil
}
