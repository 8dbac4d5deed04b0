package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeModules makes a folder of tiny modules with the given dependencies.
func writeModules(t *testing.T, depends map[string]string) moduleTree {
	t.Helper()
	dir := t.TempDir()
	for name, deps := range depends {
		path := filepath.Join(dir, "kernel", name+".ko")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, tinyModule(t, "name="+name+"\x00depends="+deps+"\x00"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := openModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// tinyModule is a relocatable ELF file with .modinfo and an empty symbol table.
func tinyModule(t *testing.T, modinfo string) []byte {
	t.Helper()
	names := "\x00.modinfo\x00.symtab\x00.strtab\x00"
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_SYMTAB), Off: 64 + uint64(len(modinfo)), Size: 48, Link: 3, Info: 1, Entsize: 24, Addralign: 1},
		{Name: 18, Type: uint32(elf.SHT_STRTAB), Off: 64 + uint64(len(modinfo)) + 48, Size: uint64(len(names)), Addralign: 1},
	}
	head := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64,
		Shoff: 64 + uint64(len(modinfo)+48+len(names)), Shnum: uint16(len(sections)), Shstrndx: 3,
	}
	symbols := make([]byte, 48)
	symbols[24], symbols[30] = 1, 1 // a defined name, so that the table is not empty
	var b bytes.Buffer
	for _, part := range []any{head, []byte(modinfo), symbols, []byte(names), sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestModulesLoadAfterWhatTheyNeed(t *testing.T) {
	tree := writeModules(t, map[string]string{
		"virtio": "", "virtio_ring": "", "virtio_pci": "virtio_ring,virtio",
		"virtio_net": "virtio,net_failover", "net_failover": "failover", "failover": "",
		"broken": "gone", "sha512-ssse3": "",
	})
	order, err := tree.loadOrder("virtio_pci", "virtio_net", "sha512-ssse3")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"virtio_ring", "virtio", "virtio_pci", "failover", "net_failover", "virtio_net", "sha512_ssse3"}, order); diff != "" {
		t.Error(diff)
	}
	if _, err := tree.loadOrder("broken"); !errors.Is(err, ErrNoModule) {
		t.Errorf("a module that needs a missing one: %v, want ErrNoModule", err)
	}
}

func TestBuiltInModulesAreNotCarried(t *testing.T) {
	tree := writeModules(t, map[string]string{"virtio_pci": "", "virtio_net": "", "virtio_blk": "", "crc32c_generic": ""})
	var b bytes.Buffer
	a := newArchive(&b)
	k := Kernel{Release: "6.1.0-55-cloud-amd64", ModulesDir: filepath.Dir(filepath.Dir(tree["virtio_pci"]))}
	if err := addModules(a, k, nil); err != nil { // ext4 is built in
		t.Fatal(err)
	}
	if !bytes.Contains(b.Bytes(), []byte("virtio_pci\nvirtio_net\nvirtio_blk\ncrc32c_generic\n")) {
		t.Errorf("no load list in the archive")
	}
	if err := addModules(a, k, []string{"ext4"}); !errors.Is(err, ErrNoModule) {
		t.Errorf("a module that was asked for and is not there: %v, want ErrNoModule", err)
	}
}

func TestModuleThatIsNoModule(t *testing.T) {
	tree := writeModules(t, map[string]string{"a": ""})
	if err := os.WriteFile(tree["a"], []byte("rubbish, but long enough for a header"), 0o644); err != nil {
		t.Fatal(err)
	}
	if order, err := tree.loadOrder("a"); err == nil {
		t.Errorf("rubbish was taken for a module: %v", order)
	}
	if _, err := openModules(t.TempDir()); err == nil {
		t.Error("a folder without modules was taken for a kernel's")
	}
}
