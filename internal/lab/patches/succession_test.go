package patches

import (
	"bytes"
	"context"
	"crypto/ed25519"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"afloat/internal/build"
	"afloat/internal/bundle"
	"afloat/internal/kernel"
	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
	"afloat/internal/lab"
)

//go:embed succession.sh
var successionWords string

// succession is one file of testdata/succession.
type succession struct {
	name  string
	files map[string]string
	built map[string]*build.Output // by short name
	key   []byte                   // that signed them, the public half
}

// TestSuccession builds series of live patches and runs their scripts, all in
// one guest for each kernel: what the kernel does when one live patch follows
// another, and when callbacks run. Docs state these facts; here they are checked.
func TestSuccession(t *testing.T) {
	for _, name := range []string{testKernel(), "debian:6.12.117+deb12-amd64"} {
		t.Run(strings.TrimPrefix(name, "debian:"), func(t *testing.T) {
			k := kittest.Open(t, name)
			if os.Getenv("AFLOAT_PATCHES") == "" {
				t.Skip("loads live patches in a guest with AFLOAT_PATCHES=1, as `make patches` does")
			}
			series := readSuccessions(t)
			for _, s := range series {
				s.build(t, k)
			}
			h := boot(t, k)
			if h == nil {
				t.Skip("no guest")
			}
			agent, err := os.ReadFile(program(t, "afloat/cmd/afloat-agent"))
			if err != nil {
				t.Fatal(err)
			}
			if err := h.Put(t.Context(), "/tmp/afloat-agent", 0o755, agent); err != nil {
				t.Fatal(err)
			}
			for _, s := range series {
				t.Run(s.name, func(t *testing.T) { s.run(t, k, h) })
			}
		})
	}
}

func readSuccessions(t *testing.T) []*succession {
	t.Helper()
	paths, err := filepath.Glob("testdata/succession/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	var out []*succession
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := &succession{name: strings.TrimSuffix(filepath.Base(path), ".txtar"), files: map[string]string{}, built: map[string]*build.Output{}}
		for _, f := range archive.Files {
			s.files[f.Name] = string(f.Data)
		}
		out = append(out, s)
	}
	return out
}

// build follows the build file: each line is "NAME PATCH" or "NAME on EARLIER PATCH".
func (s *succession) build(t *testing.T, k *kit.Kit) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err == nil {
		_, s.key, err = bundle.EncodeKeys(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(s.files["build"]) {
		words := strings.Fields(line)
		input := words[len(words)-1]
		o := build.Options{Kit: k, Name: words[0], Patches: []build.Input{{Name: input, Text: []byte(s.files[input])}},
			Key: key, WorkDir: t.TempDir(), Now: time.Now()}
		if len(words) == 4 {
			if o.On, err = build.ReadEarlier(s.built[words[2]].File, public); err != nil {
				t.Fatal(err)
			}
		}
		out, err := build.Build(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %s: %v", s.name, words[0], err)
		}
		s.built[words[0]] = out
	}
}

// run puts the live patches into the guest and runs the script there.
func (s *succession) run(t *testing.T, k *kit.Kit, h *lab.Host) {
	ctx, cancel := context.WithTimeout(t.Context(), guestLimit)
	defer cancel()
	folder := "/tmp/" + s.name + "/"
	put := func(name string, content []byte) {
		t.Helper()
		if err := h.Put(ctx, folder+name, 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	var names bytes.Buffer
	for name, out := range s.built {
		put(name+".ko", out.Module)
		put(name+".afloat", out.File)
		fmt.Fprintf(&names, "%s %s\n", name, out.Manifest.Module)
	}
	for name := range strings.FieldsSeq(s.files["modules"]) {
		put(name+".ko", module(t, k, name))
	}
	put("names", names.Bytes())
	if err := h.Put(ctx, "/etc/afloat/publishers.d/"+s.name+".pub", 0o644, s.key); err != nil {
		t.Fatal(err)
	}
	out, err := h.Exec(ctx, "sh", "-exc", "cd "+folder+"\n"+successionWords+s.files["script"])
	if err != nil {
		t.Fatal(err)
	}
	if out.Code != 0 {
		t.Fatalf("exit code %d:\n%s", out.Code, out.Output())
	}
	t.Log(out.Stdout)
}

// module is a module of the kernel, ready for insmod.
func module(t *testing.T, k *kit.Kit, name string) []byte {
	t.Helper()
	path, err := k.Module(name)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := kernel.Decompress(packed)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

var codeBlock = regexp.MustCompile("(?ms)^```c\n(.*?)^```$")

// TestGuide wants every piece of C in the authors' guide to be part of a patch
// of testdata, word for word: what is built and loaded is what is recommended.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../../../docs/how-to/write-a-patch.md")
	if err != nil {
		t.Fatal(err)
	}
	var patched strings.Builder
	for _, pattern := range []string{"testdata/*.txtar", "testdata/succession/*.txtar"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if !strings.HasPrefix(line, "-") {
					patched.WriteString(line[min(1, len(line)-1):])
				}
			}
		}
	}
	blocks := codeBlock.FindAllSubmatch(guide, -1)
	if len(blocks) < 5 {
		t.Fatalf("the guide has %d pieces of C", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(patched.String(), string(block[1])) {
			t.Errorf("in no patch of testdata:\n%s", block[1])
		}
	}
}
