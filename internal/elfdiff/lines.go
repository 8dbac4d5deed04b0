package elfdiff

import (
	"bytes"
)

// lineReach is how far the number that __LINE__ gives may lie from the line
// that the debug information has for the instruction: a macro call can stretch
// over many lines.
const lineReach = 64

// onlyLines says that two functions of one size differ in nothing but source
// line numbers that they pass on, as __LINE__ gives them. Each differing
// immediate must be near the line that the debug information has for its
// instruction, and must have moved as far as that line has.
func (c *comparison) onlyLines(o, n *node) bool {
	if len(o.data) != len(n.data) {
		return false
	}
	for at := 0; at < len(n.data); {
		a, errA := decode(o.data[at:])
		b, errB := decode(n.data[at:])
		if errA != nil || errB != nil || a != b {
			return false
		}
		end := at + b.size
		if !bytes.Equal(o.data[at:end], n.data[at:end]) && !c.lineMoved(o, n, at, b) {
			return false
		}
		at = end
	}
	return true
}

func (c *comparison) lineMoved(o, n *node, at int, insn instruction) bool {
	imm := at + insn.imm
	if !insn.loadsImmediate() || insn.immSize > 4 || !bytes.Equal(o.data[at:imm], n.data[at:imm]) {
		return false
	}
	before := displacement4(o.data[imm:], insn.immSize)
	after := displacement4(n.data[imm:], insn.immSize)
	was, ok := c.orig.object.findLine(o.section, o.off+uint64(at))
	if !ok {
		return false
	}
	is, ok := c.patched.object.findLine(n.section, n.off+uint64(at))
	if !ok || was.file != is.file {
		return false
	}
	return before > 0 && after-before == int64(is.number-was.number) && abs(after-int64(is.number)) <= lineReach
}

func displacement4(b []byte, size int) int64 {
	var v int64
	for i := size - 1; i >= 0; i-- {
		v = v<<8 | int64(b[i])
	}
	return v
}

func abs(v int64) int64 {
	if v < 0 {
		return -v
	}
	return v
}
