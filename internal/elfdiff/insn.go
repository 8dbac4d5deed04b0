package elfdiff

import "errors"

// instruction is what the comparison needs to know of one x86-64 instruction:
// its length and where its operands lie. See the opcode maps in the Intel SDM,
// volume 2, appendix A.
type instruction struct {
	size     int
	opcode   byte
	space    opcodeSpace
	modrm    byte
	hasModRM bool
	imm      int // offset of the immediate, or of the branch displacement
	immSize  int // 0 if there is none
}

type opcodeSpace byte

const (
	oneByte opcodeSpace = iota
	twoByte             // 0F xx
	space38             // 0F 38 xx
	space3A             // 0F 3A xx
	spaceOther
)

var errInstruction = errors.New("instruction is not known")

// Bit sets over the 256 opcodes of a map.
type opcodes [4]uint64

func (o opcodes) has(op byte) bool { return o[op>>6]&(1<<(op&63)) != 0 }

// Opcodes of the one-byte map that have a ModRM byte.
var oneModRM = opcodes{
	0x0f0f0f0f0f0f0f0f,                    // 00-3f: the first four of each eight
	1<<0x23 | 1<<0x29 | 1<<0x2b,           // 63 69 6b
	0xffff,                                // 80-8f
	0x3 | 0xc0 | 0xff0f_0000 | 0xc0c0<<48, // c0 c1 c6 c7 d0-d3 d8-df f6 f7 fe ff
}

// Opcodes of the 0F map that have no ModRM byte.
var twoPlain = opcodes{
	1<<0x05 | 1<<0x06 | 1<<0x07 | 1<<0x08 | 1<<0x09 | 1<<0x0b | 1<<0x0e | 0xff<<0x30,
	1 << 0x37,                      // 77
	0xffff | 0x7<<0x20 | 0x7<<0x28, // 80-8f a0-a2 a8-aa
	0xff << 0x08,                   // c8-cf
}

// Opcodes of the 0F map with an 8-bit immediate.
var twoImm8 = opcodes{
	1 << 0x0f,
	0xf << 0x30,                           // 70-73
	1<<0x24 | 1<<0x2c | 1<<0x3a,           // a4 ac ba
	1<<0x02 | 1<<0x04 | 1<<0x05 | 1<<0x06, // c2 c4 c5 c6
}

type decoder struct {
	code   []byte
	at     int
	narrow bool // operand-size prefix
	wide   bool // REX.W
	short  bool // address-size prefix
	insn   instruction
}

// decode reads the instruction at the start of code.
func decode(code []byte) (instruction, error) {
	d := decoder{code: code}
	op, ok := d.prefixes()
	if !ok {
		return instruction{}, errInstruction
	}
	if !d.opcode(op) || !d.operands() || d.at > len(code) || d.at > 15 {
		return instruction{}, errInstruction
	}
	d.insn.size = d.at
	return d.insn, nil
}

func (d *decoder) next() (byte, bool) {
	if d.at >= len(d.code) {
		return 0, false
	}
	d.at++
	return d.code[d.at-1], true
}

// prefixes returns the first byte that is none.
func (d *decoder) prefixes() (byte, bool) {
	for {
		b, ok := d.next()
		switch {
		case !ok:
			return 0, false
		case b == 0x66:
			d.narrow = true
		case b == 0x67:
			d.short = true
		case b == 0xf0, b == 0xf2, b == 0xf3, b == 0x2e, b == 0x36, b == 0x3e, b == 0x26, b == 0x64, b == 0x65:
		case b&0xf0 == 0x40:
			d.wide = b&8 != 0
			return d.next()
		default:
			return b, true
		}
	}
}

func (d *decoder) opcode(op byte) bool {
	switch op {
	case 0x0f:
		return d.escaped()
	case 0xc5: // VEX, two bytes
		return d.vector(1, 1)
	case 0xc4: // VEX, three bytes
		return d.vector(2, 0x1f)
	case 0x62: // EVEX
		return d.vector(3, 0x7)
	}
	d.insn.opcode, d.insn.hasModRM = op, oneModRM.has(op)
	return true
}

func (d *decoder) escaped() bool {
	op, ok := d.next()
	switch op {
	case 0x38, 0x3a:
		d.insn.space = space38
		if op == 0x3a {
			d.insn.space = space3A
		}
		op, ok = d.next()
		d.insn.hasModRM = true
	default:
		d.insn.space, d.insn.hasModRM = twoByte, !twoPlain.has(op)
	}
	d.insn.opcode = op
	return ok
}

// vector reads the payload of a VEX or EVEX prefix, whose first byte selects the map.
func (d *decoder) vector(payload int, mask byte) bool {
	first, ok := d.next()
	if !ok {
		return false
	}
	d.at += payload - 1
	selected := first & mask
	if payload == 1 {
		selected = 1
	}
	switch selected {
	case 1:
		d.insn.space = twoByte
	case 2:
		d.insn.space = space38
	case 3:
		d.insn.space = space3A
	default:
		d.insn.space = spaceOther
	}
	d.insn.opcode, ok = d.next()
	d.insn.hasModRM = d.insn.space != twoByte || d.insn.opcode != 0x77
	return ok
}

func (d *decoder) operands() bool {
	if d.insn.hasModRM && !d.memory() {
		return false
	}
	d.insn.imm, d.insn.immSize = d.at, d.immediate()
	d.at += d.insn.immSize
	return true
}

// memory reads ModRM, SIB and displacement.
func (d *decoder) memory() bool {
	m, ok := d.next()
	if !ok {
		return false
	}
	d.insn.modrm = m
	mod, rm := m>>6, m&7
	if mod == 3 {
		return true
	}
	if rm == 4 {
		sib, ok := d.next()
		if !ok {
			return false
		}
		if mod == 0 && sib&7 == 5 {
			d.at += 4
		}
	}
	switch {
	case mod == 1:
		d.at++
	case mod == 2, mod == 0 && rm == 5:
		d.at += 4
	}
	return true
}

func (d *decoder) immediate() int {
	op := d.insn.opcode
	switch d.insn.space {
	case space3A:
		return 1
	case twoByte:
		switch {
		case op&0xf0 == 0x80 && !d.insn.hasModRM:
			return 4
		case twoImm8.has(op):
			return 1
		}
		return 0
	case oneByte:
		return d.oneImmediate(op)
	}
	return 0
}

// full is the size of an immediate that follows the operand size.
func (d *decoder) full() int {
	if d.narrow && !d.wide {
		return 2
	}
	return 4
}

func (d *decoder) oneImmediate(op byte) int {
	switch {
	case op < 0x40 && op&7 == 4, op == 0x6a, op == 0x6b, op&0xf0 == 0x70, op == 0x80, op == 0x83, op == 0xa8,
		op&0xf8 == 0xb0, op == 0xc0, op == 0xc1, op == 0xc6, op == 0xcd, op&0xf8 == 0xe0, op == 0xeb:
		return 1
	case op < 0x40 && op&7 == 5, op == 0x68, op == 0x69, op == 0x81, op == 0xa9, op == 0xc7:
		return d.full()
	case op == 0xe8, op == 0xe9:
		return 4
	case op&0xfc == 0xa0:
		if d.short {
			return 4
		}
		return 8
	case op&0xf8 == 0xb8:
		if d.wide {
			return 8
		}
		return d.full()
	case op == 0xc2, op == 0xca:
		return 2
	case op == 0xc8:
		return 3
	case op == 0xf6 && d.insn.modrm&0x30 == 0:
		return 1
	case op == 0xf7 && d.insn.modrm&0x30 == 0:
		return d.full()
	}
	return 0
}

// branch says that the immediate is a displacement from the instruction's end.
func (i instruction) branch() bool {
	op := i.opcode
	switch i.space {
	case oneByte:
		return op == 0xe8 || op == 0xe9 || op == 0xeb || op&0xf0 == 0x70 || op&0xfc == 0xe0
	case twoByte:
		return op&0xf0 == 0x80 && !i.hasModRM
	}
	return false
}

// loadsImmediate says that the instruction does nothing but put its immediate
// into a register, memory or the stack.
func (i instruction) loadsImmediate() bool {
	if i.space != oneByte {
		return false
	}
	return i.opcode&0xf8 == 0xb8 || i.opcode == 0xc7 || i.opcode == 0x68 || i.opcode == 0x6a
}
