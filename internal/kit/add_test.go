package kit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/kit"
	"afloat/internal/kit/kittest"
)

// plant writes files below a new folder.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const someConfig = "# x\nCONFIG_X86_64=y\n"

func TestFindParts(t *testing.T) {
	installed := map[string]string{
		"boot/vmlinuz-6.1.0": "", "boot/config-6.1.0": someConfig, "boot/System.map-6.1.0": "", "etc/config": "no kernel's",
		"lib/modules/6.1.0/kernel/fs/a.ko": "", "lib/modules/6.1.0/kernel/arch/x86/kernel/b.ko.xz": "", "lib/modules/6.1.0/build/Module.symvers": "",
		"src/linux/Makefile": "", "src/linux/Kconfig": "", "src/linux/Kbuild": "", "src/linux/tools/config": someConfig, "src/linux/drivers/x/vmlinux": "",
	}
	dir := plant(t, installed)
	at := func(path string) string { return filepath.Join(dir, path) }
	got, err := kit.FindParts(kit.Parts{}, []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	want := kit.Parts{Image: at("boot/vmlinuz-6.1.0"), Config: at("boot/config-6.1.0"), Symvers: at("lib/modules/6.1.0/build/Module.symvers"),
		Modules: at("lib/modules/6.1.0/kernel"), Source: at("src/linux")}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// A build tree is all but the modules.
	tree := plant(t, map[string]string{"Makefile": "", "Kconfig": "", "Kbuild": "", ".config": someConfig, "Module.symvers": "",
		"vmlinux": "", "arch/x86/boot/bzImage": "", "fs/a.ko": ""})
	got, err = kit.FindParts(kit.Parts{Modules: dir}, []string{tree})
	if err != nil || got.Image != filepath.Join(tree, "arch/x86/boot/bzImage") || got.Config != filepath.Join(tree, ".config") || got.Source != tree || got.Modules != dir {
		t.Errorf("build tree: %+v, %v", got, err)
	}
	// What is missing and what is there twice is named.
	_, err = kit.FindParts(kit.Parts{}, []string{tree})
	if e, ok := errors.AsType[*kit.PartError](err); !ok || e.Part != "modules" || !strings.Contains(err.Error(), tree) {
		t.Errorf("no modules: %v", err)
	}
	_, err = kit.FindParts(kit.Parts{}, []string{dir, tree})
	if e, ok := errors.AsType[*kit.PartError](err); !ok || e.Part != "image" || len(e.Found) != 2 {
		t.Errorf("two kernels: %v", err)
	}
	if _, err = kit.FindParts(kit.Parts{}, []string{"/does/not/exist"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestMismatch mixes the parts of a real kernel with others'. Nothing is made of them.
func TestMismatch(t *testing.T) {
	k := kittest.Open(t, "debian:6.1.0-55-cloud-amd64")
	module, err := k.Module("dummy")
	if err != nil {
		t.Fatal(err)
	}
	content := read(t, module)
	fitting := kit.Parts{Image: k.Vmlinuz(), Config: k.Config(), Symvers: k.Symvers(), Source: k.Source(),
		Modules: plant(t, map[string]string{"dummy.ko": content})}
	file := func(name, content string) string {
		return filepath.Join(plant(t, map[string]string{name: content}), name)
	}
	tree := func(makefile string) string { return plant(t, map[string]string{"Makefile": makefile}) }
	symvers, config := read(t, k.Symvers()), read(t, k.Config())
	for _, tc := range []struct {
		name   string
		change func(*kit.Parts)
		want   string
	}{
		{"image", func(p *kit.Parts) { p.Image = file("vmlinuz", "no kernel") }, "vmlinuz: "},
		{"cannot be live patched", func(p *kit.Parts) {
			p.Config = file("config", strings.Replace(config, "CONFIG_LIVEPATCH=y", "# CONFIG_LIVEPATCH is not set", 1))
		}, "config: CONFIG_LIVEPATCH is not set: the kernel cannot be live patched"},
		{"config of another version", func(p *kit.Parts) {
			p.Config = file("config", strings.Replace(config, "# Linux/x86 6.1.192 ", "# Linux/x86 6.1.176 ", 1))
		}, "config: it is of Linux 6.1.176, but the source in "},
		{"config of another build", func(p *kit.Parts) { p.Config = file("config", strings.Replace(config, "CONFIG_MODVERSIONS=y", "", 1)) },
			"CONFIG_MODVERSIONS is not set"},
		{"source of another series", func(p *kit.Parts) {
			p.Source = tree("VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 192\nEXTRAVERSION =\n")
			p.Config = file("config", strings.Replace(config, "# Linux/x86 6.1.192 ", "# Linux/x86 6.12.192 ", 1))
		}, "it is Linux 6.12.192, but "},
		{"no source", func(p *kit.Parts) { p.Source = tree("all:\n") }, "Makefile: it tells no version of Linux"},
		{"symvers of another image", func(p *kit.Parts) {
			p.Symvers = file("Module.symvers", symvers+"0x00000001\tno_such_export\tvmlinux\tEXPORT_SYMBOL\t\n")
		},
			"Module.symvers: it lists no_such_export as exported by vmlinux"},
		{"symvers of another build", func(p *kit.Parts) { p.Symvers = file("Module.symvers", otherCRC(t, symvers, "ether_setup")) },
			"dummy.ko: it wants ether_setup with CRC 0x"},
		{"symvers is no such file", func(p *kit.Parts) { p.Symvers = file("Module.symvers", "x\n") }, "Module.symvers: parse Module.symvers: line 1: "},
		{"module of another kernel", func(p *kit.Parts) {
			p.Modules = plant(t, map[string]string{"dummy.ko": content, "x.ko": strings.Replace(content, "vermagic=6.1.0-55-cloud", "vermagic=6.1.0-54-cloud", 1)})
		}, "x.ko: it is a module of 6.1.0-54-cloud-amd64"},
		{"damaged module", func(p *kit.Parts) { p.Modules = plant(t, map[string]string{"x.ko": content[:4000]}) }, "x.ko: parse module: "},
	} {
		parts := fitting
		tc.change(&parts)
		cache := &kit.Cache{Dir: t.TempDir()}
		_, err := cache.Add(t.Context(), parts, "")
		mismatch, ok := errors.AsType[*kit.MismatchError](err)
		if !ok || !strings.Contains(err.Error(), tc.want) || mismatch.Hint == "" {
			t.Errorf("%s: %v, want a mismatch with %q and a hint", tc.name, err, tc.want)
		}
		if list, err := cache.List(); err != nil || len(list) != 0 {
			t.Errorf("%s: a kit was begun: %+v, %v", tc.name, list, err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// otherCRC changes one symbol's CRC in a Module.symvers.
func otherCRC(t *testing.T, symvers, symbol string) string {
	t.Helper()
	out := []byte(symvers)
	at := bytes.Index(out, fmt.Appendf(nil, "\t%s\t", symbol))
	if at < 1 {
		t.Fatalf("no %s in Module.symvers", symbol)
	}
	out[at-1] ^= 1 // one hex digit to its neighbour
	return string(out)
}

// TestAdd makes a kit of Debian's own kernel as if it were somebody's, and
// another by its name is refused. It takes a minute: `make patches`.
func TestAdd(t *testing.T) {
	if os.Getenv("AFLOAT_PATCHES") == "" {
		t.Skip("prepares a source tree with AFLOAT_PATCHES=1, as `make patches` does")
	}
	k := kittest.Open(t, "debian:6.1.0-55-cloud-amd64")
	parts := kit.Parts{Image: k.Vmlinuz(), Config: k.Config(), Symvers: k.Symvers(), Modules: k.ModuleDir(), Source: k.Source()}
	cache := &kit.Cache{Dir: t.TempDir()}
	added, err := cache.Add(t.Context(), parts, "")
	if err != nil {
		t.Fatal(err)
	}
	if added.Ref.String() != "local:6.1.0-55-cloud-amd64" || added.ID != k.ID || len(added.Modules) != len(k.Modules) || added.Vermagic != k.Vermagic {
		t.Errorf("added %s %+v with %d modules, want that of %+v with %d", added.Ref, added.ID, len(added.Modules), k.ID, len(k.Modules))
	}
	if got := read(t, filepath.Join(added.Source(), "include/generated/package.h")); !strings.Contains(got, `" Debian `+k.Package+`"`) {
		t.Errorf("package.h is %q, which Debian's build did not have", got)
	}
	if again, err := cache.Add(t.Context(), parts, ""); err != nil || again.Made != added.Made {
		t.Errorf("added again: %v, made anew: %v", err, again.Made != added.Made)
	}
	if err := cache.Remove(t.Context(), added.Ref); err != nil {
		t.Fatal(err)
	}
	_, err = cache.Fetch(t.Context(), added.Ref)
	if _, ok := errors.AsType[*kit.NotAddedError](err); !ok {
		t.Errorf("fetch of a removed local kernel: %v", err)
	}
}
