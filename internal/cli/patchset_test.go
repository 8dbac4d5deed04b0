package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afloat/internal/bundle"
	"afloat/internal/kit/kittest"
)

// A patch set builds for every kernel, whatever becomes of one of them.
func TestPatchSet(t *testing.T) {
	for _, name := range []string{"debian:6.1.0-55-amd64", "debian:6.1.0-55-cloud-amd64"} {
		kittest.Open(t, name)
	}
	dir := t.TempDir()
	diff, err := os.ReadFile("../lab/bench/testdata/fs-proc-version.patch")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"fix.patch": string(diff),
		"set.yaml": `name: version
cves: [CVE-2026-0001]
kernels: ["debian:6.1.0-55-amd64", "local:9.9-none", "debian:6.1.0-55-cloud-amd64"]
patches: [fix.patch]
output: out-%k.afloat
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var out, said bytes.Buffer
	afloat := func(args ...string) int {
		root := New()
		root.SetArgs(args)
		root.SetOut(&out)
		root.SetErr(&said)
		return run(t.Context(), root, &said)
	}
	key := filepath.Join(dir, "key")
	if code := afloat("keygen", "-o", key); code != 0 {
		t.Fatalf("keygen: exit code %d: %s", code, said.String())
	}
	if code := afloat("build", "--patch-set", filepath.Join(dir, "set.yaml"), "--key", key); code != 1 {
		t.Errorf("exit code %d, want that of the kernel that has no kit: %s", code, said.String())
	}
	for _, release := range []string{"6.1.0-55-amd64", "6.1.0-55-cloud-amd64"} {
		file, err := os.ReadFile(filepath.Join(dir, "out-"+release+".afloat"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := bundle.Decode(file)
		if err != nil || b.Manifest.Name != "version" || b.Manifest.Kernel.Release != release || len(b.Manifest.CVEs) != 1 {
			t.Errorf("%s: bundle %+v, %v", release, b.Manifest, err)
		}
		if line := lineWith(out.String(), "debian:"+release+" "); !strings.Contains(line, " built ") || !strings.Contains(line, string(bundle.DigestOf(file))) {
			t.Errorf("line %q", line)
		}
	}
	if line := lineWith(out.String(), "local:9.9-none"); !strings.Contains(line, " error ") || !strings.Contains(line, "it is from no archive") {
		t.Errorf("line %q", line)
	}
	if !strings.Contains(said.String(), "no bundle for 1 of 3 kernels") || !strings.Contains(said.String(), "kernel add --from") {
		t.Errorf("said %s", said.String())
	}
}

// lineWith returns the first line that contains a text.
func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}
