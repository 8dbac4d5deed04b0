package kit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// NoSourceIndexError says that a repository publishes no list of its source packages.
type NoSourceIndexError struct {
	Repository string // as apt describes it
	File       string // what was to be found by that list
}

func (e *NoSourceIndexError) Error() string {
	return fmt.Sprintf("cannot find %s: %s publishes no index of sources", e.File, e.Repository)
}

// SourceGoneError says that the archive's index names a file that the archive does not serve.
type SourceGoneError struct {
	File string
	Err  error
}

func (e *SourceGoneError) Error() string {
	return fmt.Sprintf("the archive's index names %s, but the archive does not have it: %v", e.File, e.Err)
}

func (e *SourceGoneError) Unwrap() error { return e.Err }

// HashError says that a file is not the one that the signed index names.
type HashError struct {
	File string
	Err  error
}

func (e *HashError) Error() string {
	return fmt.Sprintf("cannot use %s: it is not the file that the archive's signed index names: %v", e.File, e.Err)
}

func (e *HashError) Unwrap() error { return e.Err }

// downloadSeries brings the debian.tar of the source package that a kernel's
// linux-source was made from into dir, about 2 MB, and returns its path.
func (c *Cache) downloadSeries(ctx context.Context, ref Ref, p packages, dir string) (string, error) {
	name, err := c.sourceName(ctx, p)
	if err != nil {
		return "", err
	}
	for _, folder := range []string{c.DebDir, dir} {
		if found, _ := filepath.Glob(filepath.Join(folder, debianTar(name, p.version)+".*")); folder != "" && len(found) > 0 {
			return found[0], nil
		}
	}
	repo, err := repositoryOf(ctx, ref, p)
	if err != nil {
		return "", err
	}
	from, err := c.findSource(ctx, ref, repo, name, p.version)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, filepath.Base(from.file))
	return path, aptFetch(ctx, repo.uri+from.dir+"/"+from.file, path, from.sha256)
}

// debianTar is a source package's file with everything that is Debian's, but for what it is compressed by.
func debianTar(name, version string) string {
	if _, rest, epoch := strings.Cut(version, ":"); epoch {
		version = rest
	}
	return name + "_" + version + ".debian.tar"
}

// sourceName is the name of the source package: linux, or linux-6.12 for a newer series of an older release.
func (c *Cache) sourceName(ctx context.Context, p packages) (string, error) {
	var out []byte
	var err error
	if deb := findDeb(c.DebDir, p.source(), p.version); deb != "" {
		out, err = run(ctx, "", "dpkg-deb", "--field", deb, "Package", "Source")
	} else {
		out, err = run(ctx, "", "apt-cache", "show", p.source()+"="+p.version)
	}
	if err != nil {
		return "", fmt.Errorf("find source package: %w", err)
	}
	name := p.source() // a package without the field has its source's name
	for line := range strings.Lines(string(out)) {
		if value, ok := strings.CutPrefix(line, "Source: "); ok {
			name = strings.Fields(value + " ?")[0] // a version may follow
		}
	}
	return name, nil
}

// repository is one entry of the user's apt configuration.
type repository struct {
	uri, release, component string
	what                    string // as apt describes its packages
	list                    string // the file that configures it
}

const repositoryFormat = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(DESCRIPTION)|"

// repositoryOf is the one that linux-source is from: its source is there as well.
func repositoryOf(ctx context.Context, ref Ref, p packages) (repository, error) {
	out, err := run(ctx, "", "apt-cache", "madison", p.source())
	if err != nil {
		return repository{}, fmt.Errorf("ask the archive: %w", err)
	}
	where := ""
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 3)
		if len(f) == 3 && strings.TrimSpace(f[1]) == p.version && where == "" {
			where = strings.TrimSpace(f[2])
		}
	}
	targets, err := run(ctx, "", "apt-get", "indextargets", "--format", repositoryFormat+"$(SOURCESENTRY)", "Created-By: Packages")
	if err != nil {
		return repository{}, fmt.Errorf("ask apt for its repositories: %w", err)
	}
	for line := range strings.Lines(string(targets)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 5 || f[3] != where {
			continue
		}
		list := f[4][:max(0, strings.LastIndex(f[4], ":"))] // without the entry's number
		return repository{uri: f[0], release: f[1], component: f[2], what: f[3], list: list}, nil
	}
	return repository{}, missing(ctx, ref, p.source()+"="+p.version)
}

// sourceFile is a file of a source package.
type sourceFile struct{ dir, file, sha256 string }

// sourcesOnly configures an apt that fetches nothing but indexes of sources, of
// the entries by which the user gets packages: with their keys, proxies and passwords.
const sourcesOnly = `#clear Acquire::IndexTargets;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::GzipIndexes "false";
Acquire::IndexTargets::deb::Sources {
  MetaKey "$(COMPONENT)/source/Sources";
  flatMetaKey "Sources";
  ShortDescription "Sources";
  Description "$(RELEASE)/$(COMPONENT) Sources";
  Optional "yes";
};
`

// ownApt is an apt with its own state in a folder, and one of the user's lists of repositories.
type ownApt struct{ state, list string }

func (c *Cache) ownApt(list string) (ownApt, error) {
	state, err := os.MkdirTemp(c.Dir, ".apt-")
	if err != nil {
		return ownApt{}, err
	}
	return ownApt{state, list}, errors.Join(os.WriteFile(filepath.Join(state, "conf"), []byte(sourcesOnly), 0o644),
		os.MkdirAll(filepath.Join(state, "lists/partial"), 0o755), os.MkdirAll(filepath.Join(state, "cache/archives/partial"), 0o755))
}

func (a ownApt) remove() {
	if a.state != "" {
		os.RemoveAll(a.state)
	}
}

func (a ownApt) run(ctx context.Context, args ...string) ([]byte, error) {
	own := aptArgs("-q", "-c", a.state+"/conf", "-o", "Dir::State::lists="+a.state+"/lists", "-o", "Dir::Cache="+a.state+"/cache",
		"-o", "Dir::Etc::sourcelist="+a.list, "-o", "Dir::Etc::sourceparts=/dev/null")
	return run(ctx, "", "apt-get", append(own, args...)...)
}

// index is the path of the repository's index of sources; "" where it did not come.
func (a ownApt) index(ctx context.Context, repo repository) (string, error) {
	out, err := a.run(ctx, "indextargets", "--format", repositoryFormat+"$(FILENAME)", "Created-By: Sources")
	if err != nil {
		return "", fmt.Errorf("ask apt for its indexes: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) == 5 && f[0] == repo.uri && f[1] == repo.release && f[2] == repo.component {
			return f[4], nil
		}
	}
	return "", nil
}

// findSource fetches the repository's index of sources, by an apt of its own,
// and looks the package's debian.tar up. What apt gives is what the
// repository's keys signed.
func (c *Cache) findSource(ctx context.Context, ref Ref, repo repository, name, version string) (sourceFile, error) {
	apt, err := c.ownApt(repo.list)
	defer apt.remove()
	if err != nil {
		return sourceFile{}, err
	}
	// The list may name other repositories, which may be out of reach: what counts is what came.
	_, failed := apt.run(ctx, "update")
	index, err := apt.index(ctx, repo)
	switch {
	case err != nil:
		return sourceFile{}, err
	case index == "" && failed != nil:
		return sourceFile{}, fmt.Errorf("fetch the index of sources: %w", fromArchive(failed))
	case index == "":
		return sourceFile{}, &NoSourceIndexError{Repository: repo.what, File: debianTar(name, version) + ".xz"}
	}
	found, err := readSource(index, name, version)
	if errors.Is(err, ErrNoSource) {
		return found, missing(ctx, ref, "source package "+name+"="+version)
	}
	return found, err
}

// ErrNoSource: an index of sources does not have a package in a version.
var ErrNoSource = errors.New("not in the index of sources")

func readSource(index, name, version string) (sourceFile, error) {
	f, err := os.Open(index)
	if err != nil {
		return sourceFile{}, err
	}
	defer f.Close()
	return parseSources(f, name, version)
}

// parseSources looks a package's debian.tar up in an index of sources: stanzas
// of fields, whose further lines begin with a space. Errors wrap ErrNoSource.
func parseSources(r io.Reader, name, version string) (sourceFile, error) {
	var field string
	stanza := map[string][]string{}
	in := bufio.NewReader(r)
	for end := false; !end; {
		line, err := in.ReadString('\n')
		if end = err == io.EOF; err != nil && !end {
			return sourceFile{}, fmt.Errorf("read index of sources: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		switch key, value, _ := strings.Cut(line, ":"); {
		case line == "":
		case line[0] != ' ' && line[0] != '\t':
			field, stanza[key] = key, []string{strings.TrimSpace(value)}
		case field == "Checksums-Sha256":
			stanza[field] = append(stanza[field], line)
		}
		if line != "" && !end {
			continue
		}
		if slices.Equal(stanza["Package"], []string{name}) && slices.Equal(stanza["Version"], []string{version}) {
			return tarOf(stanza, name, version)
		}
		clear(stanza)
	}
	return sourceFile{}, fmt.Errorf("%s %s: %w", name, version, ErrNoSource)
}

// tarOf finds the debian.tar among a package's files.
func tarOf(stanza map[string][]string, name, version string) (sourceFile, error) {
	for _, line := range stanza["Checksums-Sha256"] {
		f := strings.Fields(line) // hash, size, name
		if len(f) == 3 && strings.HasPrefix(f[2], debianTar(name, version)+".") && !strings.Contains(f[2], "/") &&
			len(f[0]) == 64 && len(stanza["Directory"]) == 1 {
			return sourceFile{dir: stanza["Directory"][0], file: f[2], sha256: f[0]}, nil
		}
	}
	return sourceFile{}, fmt.Errorf("index of sources: %s %s has no %s.* with its hash", name, version, debianTar(name, version))
}

// aptFetch brings one file by apt's own methods, which check its hash. Errors
// are a *HashError, a *SourceGoneError or an *UnreachableError where they are the archive's.
func aptFetch(ctx context.Context, uri, path, sha256 string) error {
	helper, err := exec.LookPath("apt-helper")
	if err != nil {
		helper = "/usr/lib/apt/apt-helper" // where the package has it, which is in nobody's PATH
	}
	_, err = run(ctx, "", helper, aptArgs("-q", "download-file", uri, path, "SHA256:"+sha256)...)
	if err == nil {
		return nil
	}
	os.Remove(path + ".FAILED") // what apt keeps of a file that it does not trust
	said := ""
	if e, ok := errors.AsType[*CommandError](err); ok {
		said = e.Output
	}
	switch file := filepath.Base(path); {
	case strings.Contains(said, "Hash Sum mismatch"):
		return &HashError{File: file, Err: err}
	case strings.Contains(said, " 404 "):
		return &SourceGoneError{File: file, Err: err}
	}
	return fmt.Errorf("download: %w", fromArchive(err))
}

// aptArgs adds what apt needs as root: its own user cannot write into our folders, and would say so at length.
func aptArgs(args ...string) []string {
	if os.Geteuid() == 0 {
		return append([]string{"-o", "APT::Sandbox::User=root"}, args...)
	}
	return args
}
