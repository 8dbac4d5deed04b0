package klpmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
)

// processor runs the few instructions that the linker writes by itself.
type processor struct {
	m             *memory
	rbx, rdi, rsi uint64
	rdx, rbp, rax uint64
	stack         []uint64
	zero          bool
	locked        bool

	said    []string          // functions of the patch that were called, with their argument
	results map[string]uint32 // what they return
}

func (p *processor) push(v uint64) { p.stack = append(p.stack, v) }

func (p *processor) pop() uint64 {
	v := p.stack[len(p.stack)-1]
	p.stack = p.stack[:len(p.stack)-1]
	return v
}

func (p *processor) imm(at uint64) uint64 {
	b, err := p.m.bytesAt(at, 4)
	if err != nil {
		return 0
	}
	return uint64(int64(int32(binary.LittleEndian.Uint32(b))))
}

// run executes from pc until a jump leaves the function; it returns where to.
func (p *processor) run(pc uint64) (uint64, error) {
	for range 10000 {
		n := uint64(5) // the longest opcode that is looked at
		b, err := p.m.bytesAt(pc, n)
		for ; err != nil && n > 0; n-- {
			b, err = p.m.bytesAt(pc, n-1)
		}
		if len(b) == 0 {
			return 0, fmt.Errorf("runs to %#x", pc)
		}
		is := func(prefix ...byte) bool { return bytes.HasPrefix(b, prefix) }
		switch {
		case is(0xf3, 0x0f, 0x1e, 0xfa): // endbr64
			pc += 4
		case is(0x53): // push %rbx
			p.push(p.rbx)
			pc++
		case is(0x55): // push %rbp
			p.push(p.rbp)
			pc++
		case is(0x5b): // pop %rbx
			p.rbx, pc = p.pop(), pc+1
		case is(0x5d): // pop %rbp
			p.rbp, pc = p.pop(), pc+1
		case is(0x48, 0x89, 0xfb): // mov %rdi,%rbx
			p.rbx, pc = p.rdi, pc+3
		case is(0x48, 0x89, 0xdf): // mov %rbx,%rdi
			p.rdi, pc = p.rbx, pc+3
		case is(0x89, 0xc5): // mov %eax,%ebp
			p.rbp, pc = p.rax, pc+2
		case is(0x89, 0xe8): // mov %ebp,%eax
			p.rax, pc = p.rbp, pc+2
		case is(0x85, 0xed): // test %ebp,%ebp
			p.zero, pc = p.rbp == 0, pc+2
		case is(0x0f, 0x85) && p.zero:
			pc += 6
		case is(0x0f, 0x85):
			pc += 6 + p.imm(pc+2)
		case is(0x48, 0xc7, 0xc3):
			p.rbx, pc = p.imm(pc+3), pc+7
		case is(0x48, 0xc7, 0xc7):
			p.rdi, pc = p.imm(pc+3), pc+7
		case is(0x48, 0xc7, 0xc6):
			p.rsi, pc = p.imm(pc+3), pc+7
		case is(0x48, 0x8b, 0x3b): // mov (%rbx),%rdi
			word, err := p.m.bytesAt(p.rbx, 8)
			if err != nil {
				return 0, err
			}
			p.rdi, pc = binary.LittleEndian.Uint64(word), pc+3
		case is(0x48, 0x8b, 0x53, 0x08): // mov 8(%rbx),%rdx
			word, err := p.m.bytesAt(p.rbx+8, 8)
			if err != nil {
				return 0, err
			}
			p.rdx, pc = binary.LittleEndian.Uint64(word), pc+4
		case is(0x48, 0x85, 0xff): // test %rdi,%rdi
			p.zero, pc = p.rdi == 0, pc+3
		case is(0x48, 0x83, 0xc3): // add $n,%rbx
			p.rbx, pc = p.rbx+uint64(b[3]), pc+4
		case is(0x74) && p.zero:
			pc += 2 + uint64(int64(int8(b[1])))
		case is(0x74):
			pc += 2
		case is(0xeb):
			pc += 2 + uint64(int64(int8(b[1])))
		case is(0xe8):
			if err := p.call(pc + 5 + p.imm(pc+1)); err != nil {
				return 0, err
			}
			pc += 5
		case is(0xe9):
			pc += 5 + p.imm(pc+1)
			if pc == p.m.symbols["cleanup_module"]+4 || p.m.symbolAt(pc) != fmt.Sprintf("%#x", pc) {
				return pc, nil
			}
		default:
			return 0, fmt.Errorf("at %#x: % x", pc, b)
		}
	}
	return 0, fmt.Errorf("does not end")
}

// call does what the kernel's function at an address does.
func (p *processor) call(to uint64) error {
	name := p.m.symbolAt(to)
	switch {
	case strings.HasPrefix(name, "klp_forget_"):
		end, err := p.run(to)
		if err == nil && end != p.m.symbols["cleanup_module"]+4 {
			err = fmt.Errorf("%s leaves to %#x", name, end)
		}
		return err
	case p.m.symbols[name] == to:
		p.said = append(p.said, fmt.Sprintf("%s(%d)", name, p.rdi))
		p.rax, p.rdi, p.rsi, p.rdx = uint64(p.results[name]), 0xdead, 0xdead, 0xdead
		return nil
	}
	switch to - image {
	case 0xc00:
		p.locked = p.rdi == image+0xf00
	case 0xd00:
		p.locked = p.locked && p.rdi != image+0xf00
	case 0xe00:
		if !p.locked {
			return fmt.Errorf("text_poke without text_mutex")
		}
		src, err := p.m.bytesAt(p.rsi, p.rdx)
		if err != nil {
			return err
		}
		dst, err := p.m.bytesAt(p.rdi, p.rdx)
		if err != nil {
			return err
		}
		copy(dst, src)
	default:
		return fmt.Errorf("call of %#x", to)
	}
	return nil
}

func forgettingSpec(k Kernel) Spec {
	c := codeChunk("ext9_fix", external("ext9_shared", false, false), external("shown", false, false), external("ext9_shared", false, false))
	d := &elfdiff.Chunk{Name: "pointers", Section: ".data", Type: c.Type, Flags: writable, Align: 8, Size: 16, Data: make([]byte, 16)}
	d.Relocs = []elfdiff.Fixup{{Offset: 8, Type: elf.R_X86_64_64, Target: external("ext9_shared", false, false)}}
	return Spec{Name: "fix", Kernel: k, Targets: []Target{
		{Object: "vmlinux", Parts: []Part{part(codeChunk("victim", external("hidden", false, false)))}},
		{Object: "ext9", Parts: []Part{modulePart(c, d)}},
	}}
}

// TestModuleCanLoadAgain runs the callback that empties the places of a
// module's relocations: they can then be applied once more, and nothing else changed.
func TestModuleCanLoadAgain(t *testing.T) {
	k := identified(testKernel())
	ko, stats, err := Link(forgettingSpec(k))
	if err != nil {
		t.Fatal(err)
	}
	m := load(t, ko, k)
	table := m.word(t, m.symbols["klp_patch"]+8)
	if got := m.word(t, table+16+24); got != 0 {
		t.Errorf("vmlinux has a callback at %#x", got)
	}
	callback := m.word(t, table+uint64(k.Sizes.KlpObject.Size)+16+24)
	if callback != m.symbols["klp_forget_ext9"] || callback == 0 {
		t.Fatalf("post_unpatch of ext9 is %#x, want klp_forget_ext9 at %#x", callback, m.symbols["klp_forget_ext9"])
	}
	before := m.copy()
	p := &processor{m: m}
	end, err := p.run(callback)
	if err != nil {
		t.Fatal(err)
	}
	if end != m.symbols["cleanup_module"]+4 || p.locked {
		t.Errorf("leaves to %#x with text_mutex held: %t", end, p.locked)
	}
	if m.word(t, m.symbols["pointers"]+8) != 0 {
		t.Error("a pointer to the module is still there")
	}
	for _, again := range m.late {
		again() // fails on a place that is not empty
	}
	if after := m.copy(); !bytes.Equal(before, after) {
		t.Error("after the second time the module differs")
	}
	if len(stats.Notes) > 0 {
		t.Errorf("notes %v", stats.Notes)
	}
}

func (m *memory) copy() []byte {
	var out []byte
	for _, d := range m.data {
		out = append(out, d...)
	}
	return out
}

func TestForgettingWhereNeeded(t *testing.T) {
	tests := map[string]struct {
		spoil func(*Kernel)
		note  bool
	}{
		"kernel forgets by itself": {func(k *Kernel) {
			k.Kallsyms = kernel.NewKallsyms(append(k.Kallsyms.All(), kernel.Symbol{Addr: image + 0x2000, Type: 'T', Name: "clear_relocate_add"}))
		}, false},
		"no build id":   {func(k *Kernel) { k.BuildID = nil }, true},
		"no callbacks":  {func(k *Kernel) { k.Sizes.KlpCallbacks = kernel.Layout{} }, true},
		"no mutex_lock": {func(k *Kernel) { delete(k.Symvers, "mutex_lock") }, true},
		"two text_pokes": {func(k *Kernel) {
			k.Kallsyms = kernel.NewKallsyms(append(k.Kallsyms.All(), kernel.Symbol{Addr: image + 0x2000, Type: 't', Name: "text_poke"}))
		}, true},
	}
	for name, tt := range tests {
		k := identified(testKernel())
		tt.spoil(&k)
		ko, stats, err := Link(forgettingSpec(k))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if load(t, ko, k).symbols["klp_forget_ext9"] != 0 {
			t.Errorf("%s: there is a callback", name)
		}
		if got := strings.Contains(strings.Join(stats.Notes, " "), "refuses to load it again"); got != tt.note {
			t.Errorf("%s: notes %v", name, stats.Notes)
		}
	}
}
