package kit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kernel"
)

func TestParseRef(t *testing.T) {
	for text, want := range map[string]struct {
		ref             Ref
		series, flavour string
	}{
		"debian:6.1.0-55-amd64":                          {Ref{"debian", "6.1.0-55-amd64", ""}, "6.1", "amd64"},
		"debian:6.1.0-55-cloud-amd64=6.1.192-1":          {Ref{"debian", "6.1.0-55-cloud-amd64", "6.1.192-1"}, "6.1", "cloud-amd64"},
		"debian:6.12.117+deb12-rt-amd64":                 {Ref{"debian", "6.12.117+deb12-rt-amd64", ""}, "6.12", "rt-amd64"},
		"local:6.1.192-mine":                             {Ref{"local", "6.1.192-mine", ""}, "6.1", "amd64"},
		"local:6.6=2":                                    {Ref{"local", "6.6", "2"}, "6.6", "amd64"},
		"debian:6.12.117+deb12-amd64=6.12.117-1~deb12u1": {Ref{"debian", "6.12.117+deb12-amd64", "6.12.117-1~deb12u1"}, "6.12", "amd64"},
	} {
		got, err := ParseRef(text)
		if err != nil || got != want.ref || got.Series() != want.series || got.Flavour() != want.flavour || got.String() != text {
			t.Errorf("%s: %+v %s %s %v", text, got, got.Series(), got.Flavour(), err)
		}
	}
	for _, text := range []string{"", "6.1.0-55-amd64", "debian:", "ubuntu:6.1.0-55-amd64", "debian:../../etc-amd64", "debian:6.1.0-55-arm64",
		"debian:6.1.0-55-amd64=", "debian:6.1.0-55-amd64=../x", "debian:6.1.0/55-amd64",
		"local:", "local:mine", "local:6.1/../x", "local:6.1.1=..", "debian:6.1.192-mine"} {
		if ref, err := ParseRef(text); err == nil {
			t.Errorf("%q read as %+v", text, ref)
		}
	}
}

func TestCompareConfig(t *testing.T) {
	parse := func(text string) map[string]string {
		t.Helper()
		c, err := parseConfig(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	was := parse("# comment\nCONFIG_A=y\nCONFIG_B=m\nCONFIG_CC_VERSION_TEXT=\"gcc-12\"\n# CONFIG_C is not set\n")
	if err := compareConfig(was, parse("CONFIG_B=m\nCONFIG_A=y\nCONFIG_CC_VERSION_TEXT=\"gcc\"\nCONFIG_BUILD_SALT=\"\"\nCONFIG_MODULE_SIG_ALL=y\n")); err != nil {
		t.Errorf("harmless differences refused: %v", err)
	}
	err := compareConfig(was, parse("CONFIG_A=y\nCONFIG_DEBUG_INFO_BTF=y\nCONFIG_CC_VERSION_TEXT=\"gcc-12\"\n"))
	drift, ok := errors.AsType[*ConfigDriftError](err)
	if !ok {
		t.Fatalf("error %v, want a drift", err)
	}
	if d := cmp.Diff([]string{"CONFIG_B: m -> not set", "CONFIG_DEBUG_INFO_BTF: not set -> y"}, drift.Changes); d != "" {
		t.Error(d)
	}
}

const searchOutput = `linux-image-6.1.0-9-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-10-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1-amd64 - a metapackage
linux-image-6.1.0-10-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
`

const madisonOutput = ` linux-image-6.1.0-9-amd64 | 6.1.27-1 | http://archive.example bookworm/main amd64 Packages
 linux-image-6.1.0-10-amd64 | 6.1.38-2 | http://archive.example bookworm/main amd64 Packages
 linux-image-6.1.0-10-amd64 | 6.1.38-1 | http://archive.example bookworm/main amd64 Packages
 linux-headers-6.1.0-10-amd64 | 6.1.38-2 | http://archive.example bookworm/main amd64 Packages
 linux-source-6.1 | 6.1.38-2 | http://archive.example bookworm/main amd64 Packages
     linux | 6.1.38-2 | http://archive.example bookworm/main Sources
`

func TestOffers(t *testing.T) {
	refs, err := parseAvailable(searchOutput)
	if err != nil {
		t.Fatal(err)
	}
	want := []Offer{
		{Ref{"debian", "6.1.0-9-amd64", ""}, "6.1.27-1", false},
		{Ref{"debian", "6.1.0-10-amd64", ""}, "6.1.38-2", true},
	}
	if d := cmp.Diff(want, offers(refs, madisonOutput)); d != "" {
		t.Error(d)
	}
	rt := offers([]Ref{{"debian", "6.1.0-10-rt-amd64", ""}}, strings.ReplaceAll(madisonOutput, "10-amd64", "10-rt-amd64"))
	if len(rt) != 1 || !rt[0].Source {
		t.Errorf("the rt flavour is offered as %+v", rt)
	}
	if _, err := parseAvailable(""); !errors.Is(err, ErrNoArchive) {
		t.Errorf("error %v, want ErrNoArchive", err)
	}
}

// An archive drops old kernels: that is told before anything is made, with what it has.
func TestVanishedKernel(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\ncase $1 in search) cat <<'E'\n" + searchOutput + "E\n;; madison) cat <<'E'\n" + madisonOutput + "E\n;; esac\n"
	if err := os.WriteFile(filepath.Join(bin, "apt-cache"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	c := &Cache{Dir: t.TempDir()}
	have := []Ref{{"debian", "6.1.0-10-amd64", ""}}
	for name, what := range map[string]string{
		"debian:6.1.0-8-amd64":           "linux-image-6.1.0-8-amd64",
		"debian:6.1.0-10-amd64=6.1.37-1": "linux-image-6.1.0-10-amd64=6.1.37-1",
		"debian:6.1.0-9-amd64":           "linux-headers-6.1.0-9-amd64=6.1.27-1", // the image is there, but nothing else of its version
	} {
		ref, err := ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.resolve(t.Context(), ref)
		gone, ok := errors.AsType[*NotInArchiveError](err)
		if !ok || gone.What != what || !slices.Equal(gone.Have, have) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNotInArchiveNamesWhatThereIs(t *testing.T) {
	ref := Ref{"debian", "6.1.0-40-amd64", ""}
	err := &NotInArchiveError{Ref: ref, What: "linux-image-6.1.0-40-amd64", Have: []Ref{{"debian", "6.1.0-55-amd64", ""}}}
	for _, part := range []string{"linux-image-6.1.0-40-amd64", "6.1.0-55-amd64"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not name %s", err, part)
		}
	}
}

func TestCompilerNote(t *testing.T) {
	const kernelCompiler = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40"
	for text, same := range map[string]bool{
		"gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0": true,
		"gcc (Debian 12.2.0-14+deb12u1) 12.2.0":    true,
		"gcc (Debian 12.2.0-14) 12.2.0":            false,
		"gcc (Debian 14.2.0-1) 14.2.0":             false,
	} {
		if got := compilerNote(kernelCompiler, text) == ""; got != same {
			t.Errorf("%s counts as the same: %v", text, got)
		}
	}
}

func TestMakeArgs(t *testing.T) {
	for version, want := range map[string]string{
		"#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-20)":     "6.1.192-1",
		"#1 SMP PREEMPT_RT Debian 6.12.107-1~deb12u1 (2026-08-01)": "6.12.107-1~deb12u1",
		"#1 SMP Debian 6.1.192-1":                                  "6.1.192-1",
		"#2 SMP PREEMPT_DYNAMIC Sat Nov 28 17:00:00 UTC 2026":      "",
		"#1 SMP Debian":                         "",
		"#1-Ubuntu SMP NotDebian 6.1.192-1":     "",
		"#1 SMP Debian $(shell,x) (2026-10-20)": "",
	} {
		args := MakeArgs("/kit", "gcc-12", kernel.ID{Release: "6.1.0-55-amd64", Version: version})
		got := ""
		for _, a := range args {
			if v, ok := strings.CutPrefix(a, "DISTRIBUTION_VERSION="); ok {
				got = v
			}
		}
		if got != want || slices.Contains(args, "DISTRIBUTION_OFFICIAL_BUILD=1") != (want != "") || !slices.Contains(args, "KERNELRELEASE=6.1.0-55-amd64") {
			t.Errorf("%s: %q, want the package version %q", version, args, want)
		}
	}
}

func TestEnviron(t *testing.T) {
	got := Environ([]string{"PATH=/bin", "MAKEFLAGS=-j9", "KBUILD_OUTPUT=/x", "CC=clang", "V=1", "HOME=/h", "LANG=de", "CCACHE_DIR=/c", "O=out", "http_proxy=p"})
	if d := cmp.Diff([]string{"PATH=/bin", "HOME=/h", "CCACHE_DIR=/c", "http_proxy=p", "LC_ALL=C"}, got); d != "" {
		t.Error(d)
	}
}

// madeKit writes a finished kit by hand.
func madeKit(t *testing.T, c *Cache, ref Ref) *Kit {
	t.Helper()
	k := &Kit{Dir: c.dir(ref), Ref: ref, Info: Info{
		Kernel: ref.String(), ID: kernel.ID{Release: ref.Release, Version: "#1 Debian 6.1.192-1", BuildID: "ab"},
		Files: map[string]int64{"vmlinux": 3}, Modules: map[string]string{"ext4": "modules/ext4.ko"},
	}}
	if err := os.MkdirAll(k.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(k.Vmlinux(), []byte("elf"), 0o644), k.writeMarker()); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestOpenTellsBrokenFromMissing(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	ref := Ref{"debian", "6.1.0-55-amd64", ""}
	if _, err := c.Open(ref); !errors.Is(err, ErrNoKit) {
		t.Errorf("error %v, want ErrNoKit", err)
	}
	k := madeKit(t, c, ref)
	got, err := c.Open(ref)
	if err != nil || got.Release() != "6.1.0-55-amd64" || got.Ref != ref {
		t.Fatalf("opened %+v, %v", got, err)
	}
	if path, err := got.Module("ext4"); err != nil || path != filepath.Join(k.Dir, "modules/ext4.ko") {
		t.Errorf("module is at %s, %v", path, err)
	}
	if _, err := got.Module("none"); !errors.Is(err, ErrNoModule) {
		t.Errorf("error %v, want ErrNoModule", err)
	}
	for name, damage := range map[string]func() error{
		"another size":   func() error { return os.WriteFile(k.Vmlinux(), []byte("el"), 0o644) },
		"file gone":      func() error { return os.Remove(k.Vmlinux()) },
		"marker damaged": func() error { return os.WriteFile(filepath.Join(k.Dir, markerFile), []byte("{"), 0o644) },
		"lists nothing":  func() error { return os.WriteFile(filepath.Join(k.Dir, markerFile), []byte("{}"), 0o644) },
	} {
		madeKit(t, c, ref)
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Open(ref); !errors.Is(err, ErrBrokenKit) {
			t.Errorf("%s: error %v, want ErrBrokenKit", name, err)
		}
		list, err := c.List()
		if err != nil || len(list) != 1 || list[0].State != "broken" {
			t.Errorf("%s: listed as %+v, %v", name, list, err)
		}
	}
}

func TestList(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	if list, err := c.List(); err != nil || len(list) != 0 {
		t.Errorf("an empty cache lists %+v, %v", list, err)
	}
	madeKit(t, c, Ref{"debian", "6.1.0-55-amd64", ""})
	if err := os.MkdirAll(c.dir(Ref{"debian", "6.1.0-54-amd64", ""}), 0o755); err != nil {
		t.Fatal(err)
	}
	list, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Kernel+" "+e.State)
	}
	if d := cmp.Diff([]string{"debian:6.1.0-54-amd64 unfinished", "debian:6.1.0-55-amd64 ready"}, got); d != "" {
		t.Error(d)
	}
	if _, err := json.Marshal(list); err != nil {
		t.Error(err)
	}
}

// A step that was done is not done again, and one that failed is.
func TestStepsResume(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	var told []string
	c.Progress = func(s Step) {
		if s.Done {
			told = append(told, s.Name)
		}
	}
	m := &maker{cache: c, kit: &Kit{Dir: filepath.Join(c.Dir, "kit")}}
	if err := m.sameVersion("1"); err != nil {
		t.Fatal(err)
	}
	runs := 0
	broken := errors.New("broken")
	for _, fail := range []error{broken, nil, nil} {
		err := m.step(t.Context(), "unpack source", func(context.Context) error { runs++; return fail })
		if !errors.Is(err, fail) {
			t.Errorf("step returned %v, want %v", err, fail)
		}
	}
	if runs != 2 || !slices.Equal(told, []string{"unpack source"}) {
		t.Errorf("ran %d times and told %v, want 2 and once", runs, told)
	}
	if err := m.sameVersion("2"); err != nil {
		t.Fatal(err)
	}
	if m.done("unpack-source") {
		t.Error("a step of another package version counts as done")
	}
}

func TestLockWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.lock")
	unlock, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second lock gave %v, want a wait until the deadline", err)
	}
	unlock()
	again, err := Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestDebsAreTakenFromTheFolder(t *testing.T) {
	debs := t.TempDir()
	for _, name := range []string{"linux-image-6.1.0-55-amd64_6.1.192-1_amd64.deb", "linux-headers-6.1.0-55-amd64_6.1.192-1_amd64.deb",
		"linux-source-6.1_6.1.192-1_all.deb", "linux-source-6.1_6.1.192-2_all.deb"} {
		if err := os.WriteFile(filepath.Join(debs, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cache{Dir: t.TempDir(), DebDir: debs}
	p, err := c.resolve(t.Context(), Ref{"debian", "6.1.0-55-amd64", ""})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.download(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(debs, "linux-image-6.1.0-55-amd64_6.1.192-1_amd64.deb"),
		filepath.Join(debs, "linux-headers-6.1.0-55-amd64_6.1.192-1_amd64.deb"), filepath.Join(debs, "linux-source-6.1_6.1.192-1_all.deb")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// What apt says, as seen, tells an archive that does not answer from one that does not have a file.
func TestAbsent(t *testing.T) {
	for said, want := range map[string]bool{
		"Err:1 http://archive.example bookworm InRelease\n  Temporary failure resolving 'archive.example'":                                          true,
		"E: Failed to fetch http://archive.example/x.deb  Could not connect to archive.example:80 (192.0.2.1). - connect (111: Connection refused)": true,
		"E: Failed to fetch http://archive.example/x.deb  503  Service Unavailable [IP: 192.0.2.1 80]":                                              true,
		"E: Failed to fetch http://archive.example/x.deb  404  Not Found [IP: 192.0.2.1 80]":                                                        false,
		"E: Failed to fetch http://archive.example/x_503_all.deb  Hash Sum mismatch":                                                                false,
		"E: Write error - write (28: No space left on device)":                                                                                      false,
	} {
		bin := t.TempDir()
		if err := os.WriteFile(filepath.Join(bin, "apt-get"), []byte("#!/bin/sh\ncat <<'E' >&2\n"+said+"\nE\nexit 100\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		err := aptDownload(t.Context(), t.TempDir(), []string{"x=1"})
		if err == nil || Absent(err) != want || !strings.Contains(err.Error(), said) {
			t.Errorf("%v is the archive's: %v, want %v", err, Absent(err), want)
		}
	}
	if !Absent(fmt.Errorf("list: %w", ErrNoArchive)) || Absent(nil) || Absent(&MissingToolsError{}) {
		t.Error("no lists are the archive's, missing tools are this machine's")
	}
}

func TestRunReportsWhatTheProgramSaid(t *testing.T) {
	_, err := run(t.Context(), "", "sh", "-c", "echo out; echo why >&2; exit 3")
	e, ok := errors.AsType[*CommandError](err)
	if !ok || !strings.Contains(e.Output, "why") {
		t.Errorf("error %v, want what the program wrote", err)
	}
}

// A shared cache's kits serve, and stay as they are.
func TestSharedKits(t *testing.T) {
	ref := Ref{"debian", "6.1.0-55-amd64", ""}
	theirs, ours := &Cache{Dir: t.TempDir()}, &Cache{Dir: t.TempDir()}
	lent := madeKit(t, theirs, ref)
	if err := os.MkdirAll(lent.Cache(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(lent.Cache(), "objects.json.gz"), []byte("index"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Open(ref); !errors.Is(err, ErrNoKit) {
		t.Errorf("not shared yet: %v", err)
	}
	ours.Shared = []string{t.TempDir(), theirs.Dir}
	for range 2 { // the second finds the links of the first
		k, err := ours.Fetch(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if !k.Shared() || k.Dir != lent.Dir || !strings.HasPrefix(k.Cache(), ours.Dir) {
			t.Errorf("kit in %s, shared %v, derives into %s", k.Dir, k.Shared(), k.Cache())
		}
		if index, err := os.ReadFile(filepath.Join(k.Cache(), "objects.json.gz")); string(index) != "index" {
			t.Errorf("index %q, %v", index, err)
		}
	}
	list, err := ours.List()
	if err != nil || len(list) != 1 || !list[0].Shared || list[0].State != "ready" {
		t.Errorf("listed %+v, %v", list, err)
	}
	if err := ours.Remove(t.Context(), ref); !errors.Is(err, ErrNoKit) {
		t.Errorf("a shared kit is removed: %v", err)
	}
	own := madeKit(t, ours, ref)
	if k, err := ours.Open(ref); err != nil || k.Shared() || k.Dir != own.Dir {
		t.Errorf("our own kit does not come first: %v", err)
	}
}

// Another build does not take a kernel's name away from it.
func TestAddedTwice(t *testing.T) {
	c := &Cache{Dir: t.TempDir()}
	ref := Ref{Local, "6.1.192-mine", ""}
	if k, err := c.added(ref, kernel.ID{}); k != nil || err != nil {
		t.Errorf("an empty cache has %+v, %v", k, err)
	}
	made := madeKit(t, c, ref)
	if k, err := c.added(ref, made.ID); err != nil || k == nil || k.Dir != made.Dir {
		t.Errorf("the same kernel again: %+v, %v", k, err)
	}
	other := made.ID
	other.BuildID = "cd"
	_, err := c.added(ref, other)
	if e, ok := errors.AsType[*TakenError](err); !ok || e.Have != "ab" || e.New != "cd" {
		t.Errorf("another build: %v", err)
	}
	if err := os.WriteFile(made.Vmlinux(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if k, err := c.added(ref, other); k != nil || err != nil {
		t.Errorf("a broken kit stands in the way: %+v, %v", k, err)
	}
	if _, err := os.Stat(made.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a broken kit stays: %v", err)
	}
}
