package patches

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/build"
	"afloat/internal/kbuild"
	"afloat/internal/kernel"
	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
	"afloat/internal/lab"
)

// TestSignedModule boots the kernel with a certificate of ours in its built-in
// list, as a kernel that was built with it has: the only difference to the
// kernel as shipped. What it trusts it loads without the taint of unsigned
// modules, and also where signatures are enforced; nothing else loads then.
func TestSignedModule(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("boots a kernel with AFLOAT_PATCHES=1, as `make patches` does")
	}
	for _, tool := range []string{"openssl", "qemu-system-x86_64"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	k := kittest.Open(t, testKernel())
	trusted, other := opensslKey(t, "trusted"), opensslKey(t, "other")
	outs := map[string]*build.Output{"trusted": buildSigned(t, k, &trusted), "other": buildSigned(t, k, &other), "unsigned": buildSigned(t, k, nil)}
	machine := lab.KernelOf(k)
	machine.Vmlinux = trusting(t, k, trusted.Cert)
	h, end, err := lab.Trial{Kernel: machine, Guest: guestHelper(t), MemoryMB: 512}.Boot(t.Context())
	if end != nil {
		defer end(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	live := func(name string) (string, error) {
		lived, err := lab.Life{Name: outs[name].Manifest.Module, Patch: outs[name].Module}.Run(t.Context(), h)
		return lived.Taint, err
	}
	for name, want := range map[string]string{"trusted": "OK", "other": "OEK", "unsigned": "OEK"} {
		if taint, err := live(name); err != nil || taint != want {
			t.Errorf("%s, not enforced: %v, taint %q, want %q", name, err, taint, want)
		}
	}
	if _, err := h.Script(t.Context(), "echo 1 >/sys/module/module/parameters/sig_enforce; grep Y /sys/module/module/parameters/sig_enforce"); err != nil {
		t.Fatal(err)
	}
	if _, err := live("trusted"); err != nil {
		t.Errorf("signed by whom the kernel trusts, enforced: %v", err)
	}
	for name, want := range map[string]string{"other": "Loading of module with unavailable key is rejected", "unsigned": "Loading of unsigned module is rejected"} {
		_, err := live(name)
		life, ok := errors.AsType[*lab.LifeError](err)
		if !ok || life.Why != "the module does not load" || !strings.Contains(life.Output, want) {
			t.Errorf("%s, enforced: %v, want %q", name, err, want)
		}
	}
}

// opensslKey makes a key and its certificate.
func opensslKey(t *testing.T, name string) kbuild.ModuleKey {
	t.Helper()
	m := kbuild.ModuleKey{Key: filepath.Join(t.TempDir(), "key.pem"), Cert: filepath.Join(t.TempDir(), "cert.pem")}
	out, err := exec.Command("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN="+name, "-keyout", m.Key, "-out", m.Cert).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return m
}

func buildSigned(t *testing.T, k *kit.Kit, signer *kbuild.ModuleKey) *build.Output {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := os.ReadFile("../bench/testdata/fs-proc-version.patch")
	if err != nil {
		t.Fatal(err)
	}
	out, err := build.Build(t.Context(), build.Options{Kit: k, Name: "signed", Key: key, WorkDir: t.TempDir(), Now: time.Now(), Signer: signer,
		Patches: []build.Input{{Name: "version.patch", Text: diff}}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// trusting copies the kernel with a certificate in the place of its built-in one.
func trusting(t *testing.T, k *kit.Kit, certFile string) string {
	t.Helper()
	vmlinux, err := os.ReadFile(k.Vmlinux())
	if err != nil {
		t.Fatal(err)
	}
	tables, err := k.Tables()
	if err != nil {
		t.Fatal(err)
	}
	size := contentAt(t, vmlinux, tables.Kallsyms, "system_certificate_list_size")[:8]
	list := contentAt(t, vmlinux, tables.Kallsyms, "system_certificate_list")[:binary.LittleEndian.Uint64(size)]
	if _, err := x509.ParseCertificates(list); err != nil {
		t.Fatal("the built-in list: ", err)
	}
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if len(block.Bytes) > len(list) {
		t.Fatalf("cannot put %d bytes into a list of %d", len(block.Bytes), len(list))
	}
	clear(list)
	binary.LittleEndian.PutUint64(size, uint64(copy(list, block.Bytes)))
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, vmlinux, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// contentAt is where a symbol's content begins in the file.
func contentAt(t *testing.T, vmlinux []byte, symbols *kernel.Kallsyms, name string) []byte {
	t.Helper()
	found := symbols.Lookup(name)
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil || len(found) != 1 {
		t.Fatalf("%d symbols %s, %v", len(found), name, err)
	}
	for _, s := range f.Sections {
		if addr := found[0].Addr; s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC != 0 && addr >= s.Addr && addr < s.Addr+s.Size {
			return vmlinux[s.Offset+addr-s.Addr:]
		}
	}
	t.Fatalf("%s is in no section", name)
	return nil
}
