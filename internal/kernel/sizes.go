package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf/btf"
)

// Sizes are the entry sizes of the special sections, in bytes, and the layouts
// that a livepatch module writes, all from the kernel's BTF. A size of 0 says
// that this kernel has no such structure.
type Sizes struct {
	AltInstr            int `json:"alt_instr"`             // .altinstructions
	BugEntry            int `json:"bug_entry"`             // __bug_table
	ExceptionTableEntry int `json:"exception_table_entry"` // __ex_table
	JumpEntry           int `json:"jump_entry"`            // __jump_table
	OrcEntry            int `json:"orc_entry"`             // .orc_unwind
	ParavirtPatchSite   int `json:"paravirt_patch_site"`   // .parainstructions, gone in 6.8
	StaticCallSite      int `json:"static_call_site"`      // .static_call_sites
	PiEntry             int `json:"pi_entry"`              // .printk_index

	Module       Layout `json:"module"`
	KlpPatch     Layout `json:"klp_patch"`
	KlpObject    Layout `json:"klp_object"`
	KlpFunc      Layout `json:"klp_func"`
	KlpState     Layout `json:"klp_state"`
	KlpCallbacks Layout `json:"klp_callbacks"`
	ModversInfo  Layout `json:"modversion_info"` // __versions
}

// Layout is a structure's size and its members' offsets, in bytes. A member of
// an anonymous structure or union counts as the outer one's.
type Layout struct {
	Size    int            `json:"size"`
	Offsets map[string]int `json:"offsets"`
}

// ErrNoBTF says that the kernel carries no type information (CONFIG_DEBUG_INFO_BTF is off).
var ErrNoBTF = errors.New("kernel has no BTF")

// ParseSizes reads the structures' sizes from the .BTF section of an ELF
// vmlinux. Errors wrap ErrNoBTF where there is no such section.
func ParseSizes(vmlinux io.ReaderAt) (sizes Sizes, err error) {
	defer func() {
		if p := recover(); p != nil {
			sizes, err = Sizes{}, fmt.Errorf("parse BTF: malformed: %v", p)
		}
	}()
	f, err := openELF(vmlinux)
	if err != nil {
		return Sizes{}, fmt.Errorf("parse BTF: %w", err)
	}
	section := f.Section(".BTF")
	if section == nil {
		return Sizes{}, fmt.Errorf("parse BTF: %w", ErrNoBTF)
	}
	// The library wants a symbol table beside an ELF's .BTF, and vmlinux is
	// stripped: hand it the section alone.
	raw, err := sectionData(section)
	if err != nil {
		return Sizes{}, fmt.Errorf("parse BTF: %w", err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return Sizes{}, fmt.Errorf("parse BTF: %w", err)
	}
	return readSizes(spec)
}

func readSizes(spec *btf.Spec) (Sizes, error) {
	var s Sizes
	for name, size := range map[string]*int{
		"alt_instr": &s.AltInstr, "bug_entry": &s.BugEntry, "exception_table_entry": &s.ExceptionTableEntry,
		"jump_entry": &s.JumpEntry, "orc_entry": &s.OrcEntry, "paravirt_patch_site": &s.ParavirtPatchSite,
		"static_call_site": &s.StaticCallSite, "pi_entry": &s.PiEntry,
	} {
		layout, err := readLayout(spec, name)
		if err != nil {
			return Sizes{}, err
		}
		*size = layout.Size
	}
	for name, layout := range map[string]*Layout{
		"module": &s.Module, "klp_patch": &s.KlpPatch, "klp_object": &s.KlpObject,
		"klp_func": &s.KlpFunc, "klp_state": &s.KlpState, "klp_callbacks": &s.KlpCallbacks, "modversion_info": &s.ModversInfo,
	} {
		var err error
		if *layout, err = readLayout(spec, name); err != nil {
			return Sizes{}, err
		}
	}
	return s, nil
}

// readLayout returns the zero Layout if the kernel has no such structure. Where
// several have the name (a driver may reuse it), they must have one size.
func readLayout(spec *btf.Spec, name string) (Layout, error) {
	types, err := spec.AnyTypesByName(name)
	if errors.Is(err, btf.ErrNotFound) {
		return Layout{}, nil
	}
	if err != nil {
		return Layout{}, fmt.Errorf("parse BTF: struct %s: %w", name, err)
	}
	var found *btf.Struct
	for _, t := range types {
		s, ok := t.(*btf.Struct)
		if !ok {
			continue
		}
		if found != nil && found.Size != s.Size {
			return Layout{}, fmt.Errorf("parse BTF: struct %s has sizes %d and %d", name, found.Size, s.Size)
		}
		found = s
	}
	if found == nil {
		return Layout{}, nil
	}
	l := Layout{Size: int(found.Size), Offsets: map[string]int{}}
	l.addMembers(found.Members, 0, 0)
	return l, nil
}

// addMembers follows anonymous members; depth bounds malformed BTF that nests into itself.
func (l *Layout) addMembers(members []btf.Member, base, depth int) {
	for _, m := range members {
		at := base + int(m.Offset.Bytes())
		if m.Name != "" {
			l.Offsets[m.Name] = at
			continue
		}
		if depth > 8 {
			continue
		}
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			l.addMembers(t.Members, at, depth+1)
		case *btf.Union:
			l.addMembers(t.Members, at, depth+1)
		}
	}
}
