package risk

import (
	"cmp"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

// Code is who calls whom in the shipped kernel, by direct calls and jumps, and
// which functions kernel threads run. Calls through pointers are not in it.
type Code struct {
	functions []function // of one object after the other, by address in each
	byName    map[string][]int32
}

type function struct {
	object  string
	name    string
	addr    uint64 // in vmlinux; in a module, the offset in its section
	calls   []int32
	callers []int32
	thread  bool // a kernel thread runs it as its main function
	entry   bool // ftrace can redirect it
	boot    bool // gone after boot or module load
}

// textLimit bounds the code of one object, in bytes.
const textLimit = 256 << 20

// ReadVmlinux reads the call graph of an unpacked vmlinux. It finds calls by
// their targets, without decoding what lies between: four bytes after a call's
// opcode that lead exactly to a function's start are next to never anything else.
func ReadVmlinux(r io.ReaderAt, k *kernel.Kallsyms) (c *Code, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = nil, fmt.Errorf("read calls: malformed: %v", p)
		}
	}()
	f, err := elf.NewFile(r)
	if err != nil {
		return nil, fmt.Errorf("read calls: %w", err)
	}
	c = &Code{byName: map[string][]int32{}}
	starts := map[uint64]int32{}
	c.addSymbols(k, starts)
	for _, name := range []string{".text", ".init.text"} {
		s := f.Section(name)
		if s == nil {
			continue
		}
		if s.Type == elf.SHT_NOBITS || s.FileSize > textLimit {
			return nil, fmt.Errorf("read calls: section %s has %d bytes", name, s.FileSize)
		}
		text, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("read calls: %w", err)
		}
		c.scanVmlinux(text, s.Addr, starts, name == ".init.text")
	}
	c.settle()
	return c, nil
}

// addSymbols makes a function of each code symbol, the first name of an address
// that is not local where there are several.
func (c *Code) addSymbols(k *kernel.Kallsyms, starts map[uint64]int32) {
	for _, s := range k.All() {
		if s.Type != 't' && s.Type != 'T' && s.Type != 'W' && s.Type != 'w' {
			continue
		}
		i, seen := starts[s.Addr]
		if !seen {
			i = int32(len(c.functions))
			c.functions = append(c.functions, function{object: "vmlinux", name: s.Name, addr: s.Addr})
			starts[s.Addr] = i
		}
		c.byName[s.Name] = append(c.byName[s.Name], i)
	}
}

// Opcodes of direct calls and jumps with 32-bit displacements.
const (
	opCall = 0xe8
	opJump = 0xe9
)

// scanVmlinux finds the calls in one section's code.
func (c *Code) scanVmlinux(text []byte, base uint64, starts map[uint64]int32, boot bool) {
	from := c.within(starts, base, uint64(len(text)))
	some := make([]uint64, 1<<16/64) // spares most look-ups: which low 16 bits a function's start has
	for addr := range starts {
		some[addr>>6&0x3ff] |= 1 << (addr & 63)
	}
	at := func(addr uint64) (int32, bool) {
		if some[addr>>6&0x3ff]&(1<<(addr&63)) == 0 {
			return 0, false
		}
		i, ok := starts[addr]
		return i, ok
	}
	for n, i := range from {
		f := &c.functions[i]
		end := uint64(len(text))
		if n+1 < len(from) {
			end = c.functions[from[n+1]].addr - base
		}
		start := f.addr - base
		body := text[start:end]
		f.boot, f.entry = boot, nopped(body)
		for off := 0; off+5 <= len(body); off++ {
			if !branch(body, off) {
				continue
			}
			to := f.addr + uint64(off) + 5 + uint64(int64(int32(binary.LittleEndian.Uint32(body[off+1:]))))
			if t, ok := at(to); ok && t != i {
				f.call(t, c.functions[t].name, off == entryAt(body))
				if body[off] == opCall && startsThread(c.functions[t].name) {
					c.threadArgument(body[:off], at)
				}
			}
		}
	}
}

// branch says that a call, a jump or a conditional jump may be at off.
func branch(code []byte, off int) bool {
	return code[off] == opCall || code[off] == opJump || off > 0 && code[off]&0xf0 == 0x80 && code[off-1] == 0x0f
}

// within lists the functions of a range of addresses, by address.
func (c *Code) within(starts map[uint64]int32, base, size uint64) []int32 {
	var out []int32
	for addr, i := range starts {
		if addr >= base && addr-base < size {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b int32) int { return cmp.Compare(c.functions[a].addr, c.functions[b].addr) })
	return out
}

// call adds a call. The one of __fentry__ at a function's entry is what ftrace redirects.
func (f *function) call(to int32, name string, first bool) {
	if name != "__fentry__" {
		f.calls = append(f.calls, to)
	} else if first {
		f.entry = true
	}
}

// entryAt is where a function's first instruction is, after a landing pad for
// indirect branches (endbr64).
func entryAt(code []byte) int {
	if len(code) >= 4 && string(code[:4]) == "\xf3\x0f\x1e\xfa" {
		return 4
	}
	return 0
}

// nopped says that a function begins with the nop that a kernel's build may
// make of the call of __fentry__.
func nopped(code []byte) bool {
	at := entryAt(code)
	return len(code) >= at+5 && string(code[at:at+5]) == "\x0f\x1f\x44\x00\x00"
}

// threadWindow is how far before the call that makes a thread its first
// argument is looked for, in bytes.
const threadWindow = 96

// threadArgument marks the function whose address the code before a call puts
// into the first argument last: mov $function,%rdi, or lea function(%rip),%rdi,
// of which only the former occurs in vmlinux.
func (c *Code) threadArgument(before []byte, at func(uint64) (int32, bool)) {
	for off := len(before) - 7; off >= max(0, len(before)-threadWindow); off-- {
		if string(before[off:off+3]) != "\x48\xc7\xc7" {
			continue
		}
		if i, ok := at(uint64(int64(int32(binary.LittleEndian.Uint32(before[off+3:]))))); ok {
			c.functions[i].thread = true
		}
		return
	}
}

// startsThread names the functions whose first argument is a kernel thread's main function.
func startsThread(name string) bool {
	switch name {
	case "kthread_create_on_node", "kthread_create_on_cpu", "kthread_run_on_cpu", "kernel_thread", "user_mode_thread",
		"__kthread_create_on_node", "create_io_thread", "vhost_task_create":
		return true
	}
	return false
}

// ReadModule reads the call graph of a shipped module, a relocatable file with
// its symbols. What it calls of the kernel, or of other modules, is known by name alone.
func ReadModule(name string, o *elfdiff.Object) *Code {
	c := &Code{byName: map[string][]int32{}}
	bySymbol := map[*elfdiff.Symbol]int32{}
	starts := map[*elfdiff.Section]map[uint64]int32{}
	for _, s := range o.Symbols {
		if !s.Function() || s.Section == nil || s.Size == 0 {
			continue
		}
		if starts[s.Section] == nil {
			starts[s.Section] = map[uint64]int32{}
		}
		i, seen := starts[s.Section][s.Value]
		if !seen {
			i = int32(len(c.functions))
			starts[s.Section][s.Value] = i
			f := function{object: name, name: s.Name, addr: s.Value, boot: s.Section.Name == ".init.text"}
			if s.Section.Data != nil {
				f.entry = nopped(s.Section.Data[s.Value : s.Value+s.Size])
			}
			c.functions = append(c.functions, f)
		}
		bySymbol[s] = i
	}
	for _, s := range o.Symbols {
		if i, ok := bySymbol[s]; ok && starts[s.Section][s.Value] == i && c.functions[i].name == s.Name {
			c.scanModule(s, i, starts)
		}
	}
	for i, f := range c.functions {
		if f.object == name {
			c.byName[f.name] = append(c.byName[f.name], int32(i))
		}
	}
	c.settle()
	return c
}

func (c *Code) scanModule(s *elfdiff.Symbol, i int32, starts map[*elfdiff.Section]map[uint64]int32) {
	code := s.Section.Data
	if code == nil {
		return
	}
	var argument int32 = -1
	first, _ := slices.BinarySearchFunc(s.Section.Relocs, max(s.Value, 3), func(r elfdiff.Reloc, off uint64) int { return cmp.Compare(r.Offset, off) })
	for _, r := range s.Section.Relocs[first:] {
		if r.Offset >= s.Value+s.Size {
			break
		}
		t, ok := c.moduleTarget(r, starts)
		if !ok {
			continue
		}
		switch {
		case string(code[r.Offset-3:r.Offset]) == "\x48\xc7\xc7":
			argument = t
		case elfdiff.PCRelative(r.Type) && branch(code, int(r.Offset-1)):
			if t == i {
				continue
			}
			c.functions[i].call(t, c.functions[t].name, int(r.Offset-1-s.Value) == entryAt(code[s.Value:s.Value+s.Size]))
			if startsThread(c.functions[t].name) && argument >= 0 {
				c.functions[argument].thread = true
			}
			argument = -1
		}
	}
}

// moduleTarget is the function that a module's relocation points at.
func (c *Code) moduleTarget(r elfdiff.Reloc, starts map[*elfdiff.Section]map[uint64]int32) (int32, bool) {
	if r.Symbol.Section == nil {
		if len(c.byName[r.Symbol.Name]) == 0 {
			c.byName[r.Symbol.Name] = []int32{int32(len(c.functions))}
			c.functions = append(c.functions, function{name: r.Symbol.Name, entry: true})
		}
		return c.byName[r.Symbol.Name][0], true
	}
	at := r.Symbol.Value + uint64(r.Addend)
	if elfdiff.PCRelative(r.Type) {
		at += 4
	}
	i, ok := starts[r.Symbol.Section][at]
	return i, ok
}

// settle makes the lists of calls sets, and the callers from them.
func (c *Code) settle() {
	for i := range c.functions {
		c.functions[i].callers = nil
	}
	for i := range c.functions {
		f := &c.functions[i]
		slices.Sort(f.calls)
		f.calls = slices.Compact(f.calls)
		for _, t := range f.calls {
			c.functions[t].callers = append(c.functions[t].callers, int32(i))
		}
	}
}
