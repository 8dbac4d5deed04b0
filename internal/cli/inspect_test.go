package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/kernel"
)

// inspected is what inspect prints of a bundle for an old kernel, with a risk
// in its manifest and a boot test.
func inspected(t *testing.T, args ...string) (string, error) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	file, err := bundle.Seal(key, bundle.Manifest{
		Kind: bundle.KindLive, Name: "fix1", Module: "afloat_x", KlpSymbols: 94, Created: time.Unix(0, 0).UTC(),
		Kernel:    kernel.ID{Release: "5.10.0-30-amd64", Version: "#1 SMP Debian 5.10.218-1 (2024-06-01)", BuildID: "00"},
		Functions: []bundle.Function{{Object: "vmlinux", Name: "do_epoll_wait"}, {Object: "ext4", Name: "ext4_sync_file"}},
		Evidence: bundle.Evidence{LivePatching: "CONFIG_LIVEPATCH, reliable stack traces", LoadMS: 4300,
			Risks: []bundle.Risk{{Kind: bundle.RiskStall, Function: "vmlinux:do_epoll_wait", Why: "tasks in epoll_wait(2) wait in it"}}},
	}, []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fix1.afloat")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := New()
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"inspect", path}, args...))
	err = cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestInspectRisks(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(profile, []byte("# Overhead  Symbol\n    12.00%  [k] ext4_sync_file\n    80.00%  [k] do_idle\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := inspected(t, "--profile", profile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"support        Debian 11 (bullseye): no support since 2026-08-31",
		"live patching  CONFIG_LIVEPATCH, reliable stack traces",
		"klp symbols    94 looked up when it loads, which took 4.30 s in the boot test",
		"risks          vmlinux:do_epoll_wait: tasks in epoll_wait(2) wait in it",
		"               Debian 11 (bullseye): no support",
		"               ext4:ext4_sync_file: 12.0 % of the profile's samples are in it",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	out, err = inspected(t, "--profile", profile, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Support struct{ State string }
		Risks   []bundle.Risk
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, r := range got.Risks {
		kinds = append(kinds, string(r.Kind))
	}
	if got.Support.State != "ended" || strings.Join(kinds, " ") != "stall support hot" {
		t.Errorf("support %s, risks %v", got.Support.State, kinds)
	}
	if _, err := inspected(t, "--profile", os.DevNull); err == nil || !strings.Contains(err.Error(), "no kernel function") {
		t.Errorf("an empty profile: %v", err)
	}
}

func TestSortRisks(t *testing.T) {
	stuck, others := sortRisks([]bundle.Risk{{Kind: bundle.RiskStall}, {Kind: bundle.RiskStuck, Function: "vmlinux:kswapd"}, {Kind: bundle.RiskHot}})
	if len(stuck) != 1 || stuck[0].Function != "vmlinux:kswapd" || others != 2 {
		t.Errorf("got %v and %d others", stuck, others)
	}
}
