package corpus

import (
	"bytes"
	"debug/elf"

	"afloat/internal/elfdiff"
	"afloat/internal/kbuild"
)

// runsLater says that a changed function runs at another time than when its
// module is loaded or unloaded.
func (r *run) runsLater(u kbuild.Unit, d *elfdiff.Diff) (bool, error) {
	if len(d.New) > 0 || u.Module == "" || len(d.Changed) == 0 {
		return len(d.Changed)+len(d.New) > 0, nil
	}
	file, err := r.Kit.ModuleFile(u.Module)
	if err != nil {
		return false, err
	}
	shipped, err := elfdiff.Read(bytes.NewReader(file))
	if err != nil {
		return false, err
	}
	for _, f := range d.Changed {
		if !onlyLoads(shipped, f.Name) {
			return true, nil
		}
	}
	return false, nil
}

// onlyLoads says that nothing but a module's init and exit code leads to one of
// its functions. Only a global one's callers can be told: those of a local one
// in the same section have no relocation.
func onlyLoads(module *elfdiff.Object, name string) bool {
	found := false
	for _, s := range module.Symbols {
		if s.Name != name || !s.Function() {
			continue
		}
		if s.Section == nil || s.Bind != elf.STB_GLOBAL {
			return false
		}
		found = true
	}
	if !found {
		return false
	}
	for _, s := range module.Sections {
		switch s.Name {
		case ".init.text", ".exit.text", "__mcount_loc", ".orc_unwind_ip", ".return_sites":
			continue
		}
		for _, rel := range s.Relocs {
			if rel.Symbol.Name == name && s.Alloc() {
				return false
			}
		}
	}
	return true
}
