package kit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNoArchive says that apt knows no packages at all: its lists were never fetched.
var ErrNoArchive = errors.New("apt has no package lists")

// NotInArchiveError says that the archive does not have a kernel, and what it has.
type NotInArchiveError struct {
	Ref  Ref
	What string // the package, or package=version, that is missing
	Have []Ref  // whole kernels of the same flavour and series, oldest first
}

func (e *NotInArchiveError) Error() string {
	if len(e.Have) == 0 {
		return fmt.Sprintf("the archive has no %s, and no whole %s kernel of the %s series", e.What, e.Ref.Flavour(), e.Ref.Series())
	}
	names := make([]string, len(e.Have))
	for i, r := range e.Have {
		names[i] = r.Release
	}
	return fmt.Sprintf("the archive has no %s; of this flavour and series it has, with source, %s", e.What, strings.Join(names, ", "))
}

// UnreachableError says that the archive did not answer.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return "cannot reach the archive: " + e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Absent says that an error is not of this machine: the archive does not have
// what was asked for, or it is out of reach.
func Absent(err error) bool {
	_, gone := errors.AsType[*NotInArchiveError](err)
	_, file := errors.AsType[*SourceGoneError](err)
	_, unreachable := errors.AsType[*UnreachableError](err)
	return gone || file || unreachable || errors.Is(err, ErrNoArchive)
}

// silence is how apt says that a server did not answer, in the words of its http method.
var silence = regexp.MustCompile(`Temporary failure resolving|Could not resolve|[Cc]ould not connect|Unable to connect|Cannot initiate the connection|` +
	`Connection (failed|timed out|refused)|Network is unreachable|No route to host| 50[0-9] +[A-Z]`)

// fromArchive tells an archive that is out of reach from one that answered.
func fromArchive(err error) error {
	if e, ok := errors.AsType[*CommandError](err); ok && silence.MatchString(e.Output) {
		return &UnreachableError{Err: err}
	}
	return err
}

// packages are the exact packages that make one kit, all of one source version.
type packages struct {
	version string
	names   []string
}

func (p packages) image() string   { return p.names[0] }
func (p packages) headers() string { return p.names[1] }
func (p packages) source() string  { return p.names[2] }

func packagesOf(ref Ref, version string) packages {
	return packages{version: version, names: []string{
		"linux-image-" + ref.Release, "linux-headers-" + ref.Release, "linux-source-" + ref.Series(),
	}}
}

// resolve finds the version of the kernel's packages. Errors are a *NotInArchiveError or wrap ErrNoArchive.
func (c *Cache) resolve(ctx context.Context, ref Ref) (packages, error) {
	versions := debVersions(c.DebDir, "linux-image-"+ref.Release)
	if len(versions) == 0 {
		var err error
		if versions, err = madison(ctx, "linux-image-"+ref.Release); err != nil {
			return packages{}, err
		}
	}
	if ref.Version != "" {
		if !slices.Contains(versions, ref.Version) {
			return packages{}, missing(ctx, ref, "linux-image-"+ref.Release+"="+ref.Version)
		}
		versions = []string{ref.Version}
	}
	if len(versions) == 0 {
		return packages{}, missing(ctx, ref, "linux-image-"+ref.Release)
	}
	p := packagesOf(ref, versions[0])
	return p, c.checkPackages(ctx, ref, p)
}

// checkPackages makes sure that every package can be had, before anything is fetched.
func (c *Cache) checkPackages(ctx context.Context, ref Ref, p packages) error {
	for _, name := range p.names {
		if findDeb(c.DebDir, name, p.version) != "" || findDeb(filepath.Join(c.dir(ref), "debs"), name, p.version) != "" {
			continue
		}
		have, err := madison(ctx, name)
		if err != nil {
			return err
		}
		if !slices.Contains(have, p.version) {
			return missing(ctx, ref, name+"="+p.version)
		}
	}
	return nil
}

// madison returns the versions of a package in the archive, newest first.
func madison(ctx context.Context, name string) ([]string, error) {
	out, err := run(ctx, "", "apt-cache", "madison", name)
	if err != nil {
		return nil, fmt.Errorf("ask the archive: %w", err)
	}
	return parseMadison(string(out), name), nil
}

// parseMadison reads lines of "PACKAGE | VERSION | WHERE".
func parseMadison(out, name string) []string {
	var versions []string
	for line := range strings.Lines(out) {
		f := strings.Split(line, "|")
		if len(f) < 3 || strings.TrimSpace(f[0]) != name || strings.Contains(f[2], " Sources") {
			continue
		}
		if v := strings.TrimSpace(f[1]); !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	return versions
}

func missing(ctx context.Context, ref Ref, what string) error {
	all, err := Available(ctx)
	if err != nil {
		return err
	}
	e := &NotInArchiveError{Ref: ref, What: what}
	for _, o := range all {
		if o.Source && o.Ref.Flavour() == ref.Flavour() && o.Ref.Series() == ref.Series() {
			e.Have = append(e.Have, o.Ref)
		}
	}
	return e
}

// Offer is a kernel that the archive has.
type Offer struct {
	Ref     Ref
	Package string // version of the image package
	// Source says that the archive has the same version of its headers and
	// linux-source, without which no kit can be made. An rt flavour needs a file
	// of the source package as well, whose index is fetched only with a kit.
	Source bool
}

// Available lists the kernels that the archive offers, oldest first within a
// flavour. Errors wrap ErrNoArchive where apt has no lists.
func Available(ctx context.Context) ([]Offer, error) {
	refs, err := availableRefs(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{"madison"}
	for _, r := range refs {
		for _, name := range packagesOf(r, "").names {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	out, err := run(ctx, "", "apt-cache", names...)
	if err != nil {
		return nil, fmt.Errorf("ask the archive: %w", err)
	}
	return offers(refs, string(out)), nil
}

// offers pairs each kernel with its newest image, and says whether the rest of its packages is there.
func offers(refs []Ref, madison string) []Offer {
	var list []Offer
	for _, r := range refs {
		p := packagesOf(r, "")
		images := parseMadison(madison, p.image())
		if len(images) == 0 {
			continue
		}
		list = append(list, Offer{Ref: r, Package: images[0], Source: slices.Contains(parseMadison(madison, p.source()), images[0]) &&
			slices.Contains(parseMadison(madison, p.headers()), images[0])})
	}
	return list
}

func availableRefs(ctx context.Context) ([]Ref, error) {
	// pkgnames would be faster, but lists packages that only others mention.
	out, err := run(ctx, "", "apt-cache", "search", "--names-only", "^linux-image-[0-9].*-amd64$")
	if err != nil {
		return nil, fmt.Errorf("ask the archive: %w", err)
	}
	return parseAvailable(string(out))
}

// parseAvailable reads lines of "PACKAGE - DESCRIPTION".
func parseAvailable(search string) ([]Ref, error) {
	var refs []Ref
	for line := range strings.Lines(search) {
		name, _, _ := strings.Cut(line, " - ")
		release := strings.TrimPrefix(strings.TrimSpace(name), "linux-image-")
		ref, err := ParseRef("debian:" + release)
		// Metapackages such as linux-image-6.1-amd64 and linux-image-cloud-amd64 are no kernels.
		if err != nil || strings.Count(release, ".") < 2 {
			continue
		}
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("list kernels: %w", ErrNoArchive)
	}
	slices.SortFunc(refs, compareRefs)
	return refs, nil
}

// compareRefs sorts by flavour, then by release with numbers as numbers.
func compareRefs(a, b Ref) int {
	if n := strings.Compare(a.Flavour(), b.Flavour()); n != 0 {
		return n
	}
	return slices.Compare(numbers(a.Release), numbers(b.Release))
}

func numbers(s string) []int {
	var out []int
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		n, _ := strconv.Atoi(f)
		out = append(out, n)
	}
	return out
}

// debVersions lists the versions of a package in a folder of .deb files, newest name last.
func debVersions(dir, name string) []string {
	if dir == "" {
		return nil
	}
	var out []string
	files, _ := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	for _, f := range files {
		parts := strings.Split(filepath.Base(f), "_")
		if len(parts) == 3 {
			out = append(out, parts[1])
		}
	}
	return out
}

// download brings the packages into dir, from the folder of .debs or the
// archive, and returns their paths in the order of names.
func (c *Cache) download(ctx context.Context, p packages, dir string) ([]string, error) {
	paths := make([]string, len(p.names))
	var ask []string
	for i, name := range p.names {
		if paths[i] = findDeb(c.DebDir, name, p.version); paths[i] != "" {
			continue
		}
		if paths[i] = findDeb(dir, name, p.version); paths[i] == "" {
			ask = append(ask, name+"="+p.version)
		}
	}
	if len(ask) == 0 {
		return paths, nil
	}
	if err := aptDownload(ctx, dir, ask); err != nil {
		return nil, err
	}
	for i, name := range p.names {
		if paths[i] == "" {
			paths[i] = findDeb(dir, name, p.version)
		}
		if paths[i] == "" {
			return nil, fmt.Errorf("download %s: apt-get brought no such file", name)
		}
	}
	return paths, nil
}

func aptDownload(ctx context.Context, dir string, ask []string) error {
	if _, err := run(ctx, dir, "apt-get", append(aptArgs("-q", "download"), ask...)...); err != nil {
		return fmt.Errorf("download: %w", fromArchive(err))
	}
	return nil
}

func findDeb(dir, name, version string) string {
	if dir == "" {
		return ""
	}
	for _, arch := range []string{"amd64", "all"} {
		path := filepath.Join(dir, name+"_"+version+"_"+arch+".deb")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
