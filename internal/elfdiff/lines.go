package elfdiff

import (
	"bytes"
	"path"
	"regexp"
)

// lineReach is how far the number that __LINE__ gives may lie from the line
// that the debug information has for the code: in a macro call that stretches
// over several lines, it is the last one.
const lineReach = 16

// onlyLines says that two functions of one size differ in nothing but source
// line numbers that they pass on, as __LINE__ gives them. Each differing
// immediate must be about the line of some instruction of the function, as the
// debug information has it, and must have moved exactly as far as that line has.
// Without debug information, every difference counts.
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
	theirs := c.orig.object.linesIn(o.section, o.off, o.end())
	mine := c.patched.object.linesIn(n.section, n.off, n.end())
	if len(theirs) != len(mine) {
		return false
	}
	for i, is := range mine {
		was := theirs[i]
		if before > 0 && path.Base(was.file) == path.Base(is.file) && after-before == int64(is.number-was.number) && abs(after-int64(is.number)) <= lineReach {
			return true
		}
	}
	return false
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

var placeInString = regexp.MustCompile(`\.[chS]:[0-9]+`)

// sameButLine says that two string literals differ only in the line of a place
// in a source file, "net/core/dev.c:10296".
func sameButLine(o, n []byte) bool {
	if bytes.Equal(o, n) {
		return true
	}
	return placeInString.Match(o) && bytes.Equal(placeInString.ReplaceAll(o, nil), placeInString.ReplaceAll(n, nil))
}
