package kit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const (
	someHash = "0d61e19cd8b6dcf83ac5a35a930cc132c37879dfe2f50dd889440d6026104729"
	archive  = "http://archive.example/security"
)

var sourcesIndex = `Package: linux
Binary: linux-source-6.1,
 linux-image-6.1.0-10-rt-amd64
Version: 6.1.38-1
Checksums-Sha256:
 ` + strings.Repeat("1", 64) + ` 10 linux_6.1.38-1.debian.tar.xz
Directory: pool/l/linux

Package: linux
Version: 6.1.38-2
Files:
 0123456789abcdef0123456789abcdef 10 linux_6.1.38-2.debian.tar.xz
Checksums-Sha256:
 ` + strings.Repeat("2", 64) + ` 10 linux_6.1.38-2.dsc
 ` + strings.Repeat("3", 64) + ` 10 linux_6.1.38.orig.tar.xz
 ` + someHash + ` 10 linux_6.1.38-2.debian.tar.xz
Directory: pool/updates/l/linux

Package: linux-bad
Version: 6.1.38-2
Checksums-Sha256:
 ` + strings.Repeat("2", 64) + ` 10 linux-bad_6.1.38-2.dsc
Directory: pool/updates/l/linux
Package-List:
 linux-bad deb kernel optional arch=all`

func TestParseSources(t *testing.T) {
	got, err := parseSources(strings.NewReader(sourcesIndex), "linux", "6.1.38-2")
	if want := (sourceFile{"pool/updates/l/linux", "linux_6.1.38-2.debian.tar.xz", someHash}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, tc := range []struct{ name, version string }{{"linux", "6.1.38-3"}, {"linux-6.12", "6.1.38-2"}, {"", ""}} {
		if got, err := parseSources(strings.NewReader(sourcesIndex), tc.name, tc.version); !errors.Is(err, ErrNoSource) {
			t.Errorf("%+v: %+v, %v", tc, got, err)
		}
	}
	for name, text := range map[string]string{
		"no such file": sourcesIndex,
		"a folder":     "Package: linux-bad\nVersion: 6.1.38-2\nDirectory: x\nChecksums-Sha256:\n " + someHash + " 1 linux-bad_6.1.38-2.debian.tar./../x\n",
		"short hash":   "Package: linux-bad\nVersion: 6.1.38-2\nDirectory: x\nChecksums-Sha256:\n 00 1 linux-bad_6.1.38-2.debian.tar.xz\n",
		"no directory": "Package: linux-bad\nVersion: 6.1.38-2\nChecksums-Sha256:\n " + someHash + " 1 linux-bad_6.1.38-2.debian.tar.xz\n",
	} {
		if got, err := parseSources(strings.NewReader(text), "linux-bad", "6.1.38-2"); err == nil || errors.Is(err, ErrNoSource) {
			t.Errorf("%s: %+v, %v, want what is wrong with the stanza", name, got, err)
		}
	}
}

func TestDebianTar(t *testing.T) {
	for version, want := range map[string]string{"6.1.38-2": "linux_6.1.38-2.debian.tar", "1:6.1.38-2": "linux_6.1.38-2.debian.tar"} {
		if got := debianTar("linux", version); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}

// fakeArchive puts programs in apt's place that answer as an archive of the
// state does, and returns a cache.
func fakeArchive(t *testing.T, state string) *Cache {
	t.Helper()
	bin, dir := t.TempDir(), t.TempDir()
	index := filepath.Join(bin, "index")
	for name, text := range map[string]string{
		"index": sourcesIndex,
		"apt-cache": `case $1 in
show) printf 'Package: linux-source-6.1\nSource: linux\nVersion: 6.1.38-2\n' ;;
search) echo 'linux-image-6.1.0-10-rt-amd64 - x' ;;
madison) echo ' linux-source-6.1 | 6.1.38-1 | http://archive.example/main old/main amd64 Packages'
  echo ' linux-source-6.1 | 6.1.38-2 | ` + archive + ` new/main amd64 Packages' ;; esac`,
		// The user's configuration has two repositories; a list of our own is asked for with -c.
		"apt-get": `state=` + state + `; case "$*" in
*" update") [ $state != unreachable ] || { echo "Temporary failure resolving 'archive.example'" >&2; exit 100; } ;;
*"Created-By: Packages"*) echo 'http://archive.example/main/|old|main|http://archive.example/main old/main amd64 Packages|/etc/apt/a.sources:1'
  echo '` + archive + `/|new|main|` + archive + ` new/main amd64 Packages|/etc/apt/b.sources:2' ;;
*"sourcelist=/etc/apt/b.sources"*"Created-By: Sources"*) case $state in unreachable|without) ;;
  empty) echo '` + archive + `/|new|main|x|/dev/null' ;;
  *) echo 'http://archive.example/main/|old|main|x|/nowhere'; echo '` + archive + `/|new|main|x|` + index + `' ;; esac ;;
*) echo "unexpected: $*" >&2; exit 1 ;; esac`,
		"apt-helper": `[ $1 != -o ] || shift 2
[ "$2" = download-file ] && [ "$3" = ` + archive + `/pool/updates/l/linux/linux_6.1.38-2.debian.tar.xz ] && [ "$5" = SHA256:` + someHash + ` ] || { echo "unexpected: $*" >&2; exit 1; }
case ` + state + ` in
changed) echo x >$4.FAILED; echo 'E: Failed to fetch x  Hash Sum mismatch' >&2; exit 100 ;;
gone) echo 'E: Failed to fetch x  404  Not Found' >&2; exit 100 ;;
esac
echo content >$4`,
	} {
		if name != "index" {
			text = "#!/bin/sh\n" + text + "\n"
		}
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return &Cache{Dir: dir}
}

// What may be wrong with an archive's source package is told apart.
func TestDownloadSeries(t *testing.T) {
	ref := Ref{"debian", "6.1.0-10-rt-amd64", ""}
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	for state, want := range map[string]func(error) bool{
		"whole":       func(err error) bool { return err == nil },
		"changed":     is(new(*HashError)),
		"gone":        is(new(*SourceGoneError)),
		"empty":       is(new(*NotInArchiveError)),
		"without":     is(new(*NoSourceIndexError)),
		"unreachable": is(new(*UnreachableError)),
	} {
		t.Run(state, func(t *testing.T) {
			c, dir := fakeArchive(t, state), t.TempDir()
			path, err := c.downloadSeries(t.Context(), ref, packagesOf(ref, "6.1.38-2"), dir)
			if !want(err) {
				t.Fatalf("%v", err)
			}
			if gone := Absent(err); gone != (state == "gone" || state == "empty" || state == "unreachable") {
				t.Errorf("%v is the archive's: %v", err, gone)
			}
			if left, _ := filepath.Glob(filepath.Join(c.Dir, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			files := readTree(t, dir)
			if err != nil && len(files) > 0 {
				t.Errorf("a file stays that nobody vouches for: %v", files)
			}
			if err == nil && files[filepath.Base(path)] != "content\n" {
				t.Errorf("%s among %v", path, files)
			}
		})
	}
}

// With the file at hand no archive is asked for it, nor a second time.
func TestSeriesAtHand(t *testing.T) {
	ref, name := Ref{"debian", "6.1.0-10-rt-amd64", ""}, "linux_6.1.38-2.debian.tar.xz"
	c, dir := fakeArchive(t, "unreachable"), t.TempDir()
	for _, folder := range []*string{&dir, &c.DebDir} {
		*folder = t.TempDir()
		writeTree(t, *folder, map[string]string{name: "x"})
		path, err := c.downloadSeries(t.Context(), ref, packagesOf(ref, "6.1.38-2"), dir)
		if err != nil || path != filepath.Join(*folder, name) {
			t.Errorf("%s, %v", path, err)
		}
	}
	writeTree(t, dir, map[string]string{"linux_6.1.38-3.debian.tar.xz": "of another version"})
	c.DebDir = ""
	if path, err := c.downloadSeries(t.Context(), ref, packagesOf(ref, "6.1.38-3"), dir); err != nil {
		t.Errorf("%s, %v", path, err)
	}
}

// TestSourceOfRealArchive asks the machine's own archive for what apt itself says.
func TestSourceOfRealArchive(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("fetches an index of sources with AFLOAT_PATCHES=1, as `make patches` does")
	}
	offers, err := Available(t.Context())
	if err != nil {
		t.Skip("no archive: ", err)
	}
	c := &Cache{Dir: t.TempDir()}
	for _, o := range offers {
		if !o.Source || o.Ref.Flavour() != realTime {
			continue
		}
		p := packagesOf(o.Ref, o.Package)
		repo, err := repositoryOf(t.Context(), o.Ref, p)
		if err != nil {
			t.Fatal(err)
		}
		name, err := c.sourceName(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		found, err := c.findSource(t.Context(), o.Ref, repo, name, o.Package)
		if Absent(err) {
			t.Skip(err)
		}
		if want := fmt.Sprintf("%s.xz", debianTar(name, o.Package)); err != nil || found.file != want {
			t.Errorf("%s is in %+v of %s: %v, want %s", o.Ref, found, repo.what, err, want)
		}
		return
	}
	t.Skip("the archive has no real-time kernel")
}

func FuzzParseSources(f *testing.F) {
	f.Add(sourcesIndex)
	f.Fuzz(func(t *testing.T, index string) {
		got, err := parseSources(strings.NewReader(index), "linux", "6.1.38-1")
		if err == nil && (len(got.sha256) != 64 || strings.Contains(got.file, "/")) {
			t.Errorf("%+v", got)
		}
	})
}
