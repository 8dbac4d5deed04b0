package kit

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// MissingToolsError lists what this machine lacks to prepare or build a kernel's objects.
type MissingToolsError struct {
	Tools    []string // programs and headers
	Packages []string // Debian packages that bring them
}

func (e *MissingToolsError) Error() string {
	return "this machine lacks " + strings.Join(e.Tools, ", ")
}

// tool is a program and the Debian package that brings it.
type tool struct{ name, pkg string }

// toolsOf are those that only some kernels need.
func toolsOf(ref Ref) []tool {
	if ref.Flavour() == realTime {
		return []tool{{"patch", "patch"}}
	}
	return nil
}

// checkTools returns a *MissingToolsError that names everything missing at once.
func checkTools(ctx context.Context, more ...tool) error {
	var missing MissingToolsError
	need := func(what, pkg string) {
		missing.Tools = append(missing.Tools, what)
		if !slices.Contains(missing.Packages, pkg) {
			missing.Packages = append(missing.Packages, pkg)
		}
	}
	for _, tool := range append([]tool{
		{"apt-get", "apt"}, {"dpkg", "dpkg"}, {"tar", "tar"}, {"xz", "xz-utils"}, {"make", "make"}, {"gcc", "gcc"},
		{"ld", "binutils"}, {"flex", "flex"}, {"bison", "bison"}, {"bc", "bc"}, {"perl", "perl"}, {"python3", "python3-minimal"},
	}, more...) {
		if _, err := exec.LookPath(tool.name); err != nil {
			need(tool.name, tool.pkg)
		}
	}
	if _, err := exec.LookPath("gcc"); err == nil {
		for _, header := range []struct{ name, pkg string }{
			{"gelf.h", "libelf-dev"}, {"openssl/ssl.h", "libssl-dev"}, {"zlib.h", "zlib1g-dev"}, {"stdio.h", "libc6-dev"},
		} {
			if !hasHeader(ctx, header.name) {
				need(header.name, header.pkg)
			}
		}
	}
	if len(missing.Tools) == 0 {
		return nil
	}
	return &missing
}

func hasHeader(ctx context.Context, name string) bool {
	cmd := command(ctx, "", "gcc", "-E", "-x", "c", "-")
	cmd.Stdin = strings.NewReader("#include <" + name + ">\n")
	return cmd.Run() == nil
}

// compilerFor picks the compiler that the kernel names in its banner ("gcc-12
// (Debian ...) 12.2.0, GNU ld ..."), else gcc, and returns its first line of --version.
func compilerFor(ctx context.Context, kernelCompiler string) (name, text string, err error) {
	named, _, _ := strings.Cut(kernelCompiler, " ")
	for _, name := range []string{named, "gcc"} {
		if strings.ContainsAny(name, "/ ") || name == "" {
			continue
		}
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		out, err := run(ctx, "", name, "--version")
		if err != nil {
			return "", "", err
		}
		text, _, _ := strings.Cut(string(out), "\n")
		return name, text, nil
	}
	return "", "", fmt.Errorf("find compiler: neither %s nor gcc is installed", named)
}

// compilerNote says how the compiler differs from the kernel's, or "" where it
// is the same. The name it is called by does not count: gcc may be gcc-12.
func compilerNote(kernelCompiler, text string) string {
	_, was, _ := strings.Cut(kernelCompiler, " ")
	_, is, _ := strings.Cut(text, " ")
	if was == is || strings.HasPrefix(was, is+",") {
		return ""
	}
	return fmt.Sprintf("compiler is %q, the kernel was built by %q: originals may not match the running code", text, kernelCompiler)
}
