package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"afloat/internal/kernel"
)

// standIns is the kit's folder of programs that only tell their version. The
// configuration depends on the versions (structures have fields for BTF, C code
// has parts that only Rust code calls), but the programs themselves make nothing
// that a live patch of C code is built from.
const standIns = "bin"

// official finds the package version in the version of a kernel that Debian built.
var official = regexp.MustCompile(` Debian ([0-9][A-Za-z0-9.+~-]*)( |$)`)

// MakeArgs are the variables that every make in a kit's tree gets. CONFIG_RUST is
// unset for make alone: the C code is configured with it where the kernel was,
// but nothing of Rust is compiled. Debian's own builds have their package's version
// in the code that reports hung tasks, and in that of stack traces.
func MakeArgs(dir, compiler string, id kernel.ID) []string {
	program := func(name string) string { return filepath.Join(dir, standIns, name) }
	args := []string{"CC=" + compiler, "PAHOLE=" + program("pahole"), "KERNELRELEASE=" + id.Release}
	if m := official.FindStringSubmatch(id.Version); m != nil {
		args = append(args, "DISTRIBUTION_OFFICIAL_BUILD=1", "DISTRIBUTOR=Debian", "DISTRIBUTION_VERSION="+m[1])
	}
	if _, err := os.Stat(program("rustc")); err == nil {
		args = append(args, "RUSTC="+program("rustc"), "BINDGEN="+program("bindgen"), "RUST_LIB_SRC="+program("rust-src"), "CONFIG_RUST=")
	}
	return args
}

// writeStandIns writes pahole of the version that the kernel's configuration
// names, and rustc and bindgen where it is configured with Rust.
func writeStandIns(dir string, config map[string]string) error {
	scripts := map[string]string{"pahole": "echo v" + paholeVersion(config["CONFIG_PAHOLE_VERSION"])}
	core := filepath.Join(dir, "rust-src/core/src")
	if config["CONFIG_RUST"] == "y" {
		text := func(option string) string { return shellQuote(strings.Trim(config[option], `"`)) }
		llvm := llvmVersion(config["CONFIG_RUSTC_LLVM_VERSION"])
		// Whatever else kconfig asks a compiler is whether it takes an option: it does.
		scripts["rustc"] = "echo " + text("CONFIG_RUSTC_VERSION_TEXT") + "\necho LLVM version: " + llvm
		// bindgen tells the version of its libclang among its errors; foofoo says that it joins tokens right.
		scripts["bindgen"] = "echo " + text("CONFIG_BINDGEN_VERSION_TEXT") + " foofoo\necho clang version " + llvm + " >&2"
	}
	if err := os.MkdirAll(core, 0o755); err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(core, "lib.rs"), nil, 0o644)} // kconfig wants it there
	for name, does := range scripts {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+does+"\n"), 0o755))
	}
	return errors.Join(errs...)
}

// paholeVersion writes 125 as 1.25.
func paholeVersion(number string) string {
	n := versionNumber(number)
	return fmt.Sprintf("%d.%d", n/100, n%100)
}

// llvmVersion writes 190107 as 19.1.7.
func llvmVersion(number string) string {
	n := versionNumber(number)
	return fmt.Sprintf("%d.%d.%d", n/10000, n/100%100, n%100)
}

func versionNumber(number string) int {
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil {
		return 0 // a kernel without the option does not ask
	}
	return n
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
