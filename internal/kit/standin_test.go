package kit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"afloat/internal/kernel"
)

// The stand-ins answer what scripts/pahole-version.sh, rustc-version.sh,
// rustc-llvm-version.sh and rust_is_available.sh of the kernel ask.
func TestStandIns(t *testing.T) {
	dir := t.TempDir()
	say := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.Command(filepath.Join(dir, standIns, name), args...).CombinedOutput()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if err := writeStandIns(filepath.Join(dir, standIns), map[string]string{"CONFIG_PAHOLE_VERSION": "124"}); err != nil {
		t.Fatal(err)
	}
	if got := say("pahole", "--version"); got != "v1.24\n" {
		t.Errorf("pahole says %q", got)
	}
	if args := MakeArgs(dir, "gcc-12", kernel.ID{Release: "6.1.0"}); slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "RUST") }) {
		t.Errorf("a kernel without Rust is made with %q", args)
	}
	config := map[string]string{"CONFIG_RUST": "y", "CONFIG_RUSTC_LLVM_VERSION": "190107",
		"CONFIG_RUSTC_VERSION_TEXT": `"rustc 1.85.0 (it's $HOME)"`, "CONFIG_BINDGEN_VERSION_TEXT": `"bindgen 0.71.1"`}
	if err := writeStandIns(filepath.Join(dir, standIns), config); err != nil {
		t.Fatal(err)
	}
	if got := say("rustc", "--version", "--verbose"); got != "rustc 1.85.0 (it's $HOME)\nLLVM version: 19.1.7\n" {
		t.Errorf("rustc says %q", got)
	}
	if got := say("bindgen", "a.h"); !strings.HasPrefix(got, "bindgen 0.71.1 ") || !strings.Contains(got, "clang version 19.1.7\n") {
		t.Errorf("bindgen says %q", got)
	}
	args := MakeArgs(dir, "gcc-14", kernel.ID{Release: "6.18.15"})
	for _, want := range []string{"CONFIG_RUST=", "RUSTC=" + filepath.Join(dir, "bin/rustc"), "BINDGEN=" + filepath.Join(dir, "bin/bindgen")} {
		if !slices.Contains(args, want) {
			t.Errorf("%q lacks %s", args, want)
		}
	}
	for _, a := range args {
		if lib, ok := strings.CutPrefix(a, "RUST_LIB_SRC="); ok {
			if _, err := os.Stat(filepath.Join(lib, "core/src/lib.rs")); err != nil {
				t.Error(err)
			}
		}
	}
}

// make takes a name with an equals sign in it for a variable.
func TestFoldersAreNamesForMake(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	for _, name := range []string{"debian:5.10.0-46-amd64=5.10.262-1", "local:6.6=2"} {
		ref, err := ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := c.dir(ref)
		if strings.ContainsAny(dir, "=:%#$ ") {
			t.Errorf("%s is in %s", name, dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		list, err := c.List()
		if err != nil || !slices.ContainsFunc(list, func(e Entry) bool { return e.Kernel == name }) {
			t.Errorf("%s is not listed: %v %v", name, list, err)
		}
	}
}

func TestImageWithoutKernel(t *testing.T) {
	m := &maker{kit: &Kit{Ref: Ref{Distro: "debian", Release: "7.3.4+deb13-amd64"}}, pkg: packagesOf(Ref{Release: "7.3.4+deb13-amd64"}, "7.3.4-1")}
	root := t.TempDir()
	if e, ok := errors.AsType[*MismatchError](m.checkImage(root)); !ok || e.Hint == "" || !strings.Contains(e.Place, "linux-image-7.3.4+deb13-amd64") {
		t.Errorf("got %v", e)
	}
	if err := os.MkdirAll(filepath.Join(root, "boot/vmlinuz-7.3.4+deb13-amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.checkImage(root); err != nil {
		t.Error(err)
	}
}

func TestModulesBelowUsr(t *testing.T) {
	for _, where := range []string{"lib/modules/6.1.0/kernel", "usr/lib/modules/6.1.0/kernel"} {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, where), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := modulesIn(root, "6.1.0"); got != where {
			t.Errorf("modules in %s, want %s", got, where)
		}
	}
}
