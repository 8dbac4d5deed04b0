// Package kit fetches, prepares and caches what building for one exact kernel
// needs: its source tree, configuration, exports, modules and the kernel
// itself. A kit is a folder; it is made once and then only read.
//
// It runs apt-get, dpkg, tar, patch and the kernel's own preparation (make olddefconfig,
// make modules_prepare), never as root by itself and never outside the cache
// folder. Compiling kernel objects is package kbuild's work.
package kit

import (
	"fmt"
	"regexp"
	"strings"
)

// Ref names a kernel in an archive: debian:6.1.0-55-amd64, or with the package
// version debian:6.1.0-55-amd64=6.1.192-1 where the archive has several. A kernel
// that is from no archive is local:RELEASE, or local:RELEASE=TAG.
type Ref struct {
	Distro  string
	Release string // what uname -r prints
	Version string // of the image package; "" for the archive's newest. Of a local kernel its tag, if any
}

// Local is the Distro of kernels that were added from folders, see Cache.Add.
const Local = "local"

var (
	releasePattern = regexp.MustCompile(`^([0-9]+\.[0-9]+)(\.[0-9]+)*([-+.][A-Za-z0-9+.]+)*-amd64$`)
	localPattern   = regexp.MustCompile(`^([0-9]+\.[0-9]+)([-._+~][A-Za-z0-9._+~-]*)?$`)
	versionPattern = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~-]*$`)
)

// ParseRef reads a Ref: of Debian's amd64 kernels, or of one that was added from folders.
func ParseRef(s string) (Ref, error) {
	distro, rest, ok := strings.Cut(s, ":")
	if !ok || distro != "debian" && distro != Local {
		return Ref{}, fmt.Errorf("cannot read kernel %q: want debian:RELEASE, such as debian:6.1.0-55-amd64, or local:RELEASE", s)
	}
	release, version, pinned := strings.Cut(rest, "=")
	if distro == Local && !localPattern.MatchString(release) {
		return Ref{}, fmt.Errorf("cannot read kernel %q: %q is no release of a kernel", s, release)
	}
	if distro != Local && !releasePattern.MatchString(release) {
		return Ref{}, fmt.Errorf("cannot read kernel %q: %q is no release of an amd64 kernel", s, release)
	}
	if pinned && !versionPattern.MatchString(version) {
		return Ref{}, fmt.Errorf("cannot read kernel %q: %q is no package version", s, version)
	}
	return Ref{Distro: distro, Release: release, Version: version}, nil
}

// String is the form that ParseRef reads.
func (r Ref) String() string {
	if r.Version == "" {
		return r.Distro + ":" + r.Release
	}
	return r.Distro + ":" + r.Release + "=" + r.Version
}

// Series is the upstream series that the source package is named by: 6.1.
func (r Ref) Series() string {
	if m := localPattern.FindStringSubmatch(r.Release); m != nil {
		return m[1]
	}
	return ""
}

// Flavour is the part after the ABI number: amd64, cloud-amd64 or rt-amd64.
func (r Ref) Flavour() string {
	for _, special := range []string{"-cloud-amd64", "-" + realTime} {
		if strings.HasSuffix(r.Release, special) {
			return special[1:]
		}
	}
	return "amd64"
}
