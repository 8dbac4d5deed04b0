// Package crash finds evidence of kernel faults: it reads the kernel log as it
// grows and picks out oopses, BUGs, panics and warnings, each with a signature
// that is the same for the same fault on every host. The parser is pure; only
// Kmsg touches the machine. It decides nothing: whether a fault counts against
// a live patch is for the server's gate.
package crash

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
	"time"

	"afloat/internal/wire"
)

// Line is one line of the kernel log.
type Line struct {
	// Since boot, as the kernel stamps it; 0 when it is not known.
	Since time.Duration
	Text  string
}

// Fault is one fault in the kernel log.
type Fault struct {
	Kind wire.CrashKind // CrashOops or CrashWarning
	// Since boot of its first line.
	Since time.Duration
	// Signature is the hash of the headline and the top frames, without
	// anything that differs from host to host.
	Signature string
	Text      string // its first lines
}

const (
	maxLines  = 120 // of one fault; what follows is not of it
	textLines = 12
	topFrames = 4
)

// Parser finds faults in lines that come one by one. Its zero value is ready.
type Parser struct {
	lines    []Line
	kind     wire.CrashKind
	headline string
	frames   []string
	inTrace  bool
}

// Add takes the next line and returns the fault that it completes, or nil.
func (p *Parser) Add(l Line) *Fault {
	l.Text = stripContext(l.Text)
	kind, starts := headline(l.Text)
	var done *Fault
	switch {
	case starts && p.open() && p.belongs(kind):
		// "Oops: 0000 [#1]" follows "BUG: unable to handle page fault".
	case starts:
		done = p.Flush()
		p.kind, p.headline = kind, normal(l.Text)
	case !p.open():
		return nil
	}
	p.take(l)
	if p.ends(l.Text) || len(p.lines) >= maxLines {
		return p.Flush()
	}
	return done
}

// Flush returns the fault that is not complete yet, or nil: nothing more comes.
func (p *Parser) Flush() *Fault {
	if !p.open() {
		return nil
	}
	f := &Fault{Kind: p.kind, Since: p.lines[0].Since, Signature: p.signature(), Text: p.text()}
	*p = Parser{}
	return f
}

func (p *Parser) open() bool { return len(p.lines) > 0 }

// belongs says whether another headline is part of the fault that is open: the
// kernel prints up to three for one oops before its call trace.
func (p *Parser) belongs(kind wire.CrashKind) bool {
	return kind == wire.CrashOops && p.kind == wire.CrashOops && !p.inTrace
}

func (p *Parser) take(l Line) {
	p.lines = append(p.lines, l)
	if strings.HasPrefix(l.Text, "Call Trace:") {
		p.inTrace = true
	}
	if frame, ok := frameOf(l.Text); ok && len(p.frames) < topFrames && (len(p.frames) == 0 || p.frames[len(p.frames)-1] != frame) {
		p.frames = append(p.frames, frame)
	}
}

func (p *Parser) ends(text string) bool {
	return strings.HasPrefix(text, "---[ end ")
}

func (p *Parser) signature() string {
	parts := append([]string{p.headline}, p.frames...)
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:8])
}

func (p *Parser) text() string {
	var b strings.Builder
	for _, l := range p.lines[:min(len(p.lines), textLines)] {
		b.WriteString(strings.ToValidUTF8(truncate(l.Text, 200), "?"))
		b.WriteByte('\n')
	}
	return b.String()
}

func truncate(s string, n int) string { return s[:min(len(s), n)] }

// headlines of faults, as printed by the kernel's arch/x86/kernel/dumpstack.c,
// arch/x86/mm/fault.c, kernel/panic.c, mm/kasan and kernel/watchdog.c.
var headlines = []struct {
	prefix string
	kind   wire.CrashKind
}{
	{"BUG: workqueue lockup", wire.CrashWarning},
	{"BUG: ", wire.CrashOops},
	{"kernel BUG at ", wire.CrashOops},
	{"Oops: ", wire.CrashOops},
	{"general protection fault", wire.CrashOops},
	{"divide error: ", wire.CrashOops},
	{"invalid opcode: ", wire.CrashOops},
	{"int3: ", wire.CrashOops},
	{"stack segment: ", wire.CrashOops},
	{"double fault: ", wire.CrashOops},
	{"Kernel panic - not syncing", wire.CrashOops},
	{"watchdog: BUG: ", wire.CrashOops},
	{"Internal error: ", wire.CrashOops},
	{"Unable to handle kernel ", wire.CrashOops},
	{"WARNING: CPU: ", wire.CrashWarning},
	{"INFO: task ", wire.CrashWarning},
	{"rcu: INFO: ", wire.CrashWarning},
}

// headline says whether a fault begins here. A process's own fault ("traps:
// x[1] general protection fault ip:...") does not begin its line like that.
func headline(text string) (wire.CrashKind, bool) {
	text = strings.TrimPrefix(text, "------------[ cut here ]------------")
	for _, h := range headlines {
		if strings.HasPrefix(text, h.prefix) {
			return h.kind, true
		}
	}
	return "", false
}

var (
	// With CONFIG_PRINTK_CALLER each line begins with the caller: [    T123] or [    C0].
	callerPattern = regexp.MustCompile(`^\[ *[TC]\d+\] ?`)
	stampPattern  = regexp.MustCompile(`^\[ *\d+\.\d+\] ?`)
	// frame: " ? name.isra.0+0x1a/0x40 [module]"; RIP: "RIP: 0010:name+0x1a/0x40 [module]".
	framePattern  = regexp.MustCompile(`^(?:RIP: [0-9a-f]{4}:| ?)([A-Za-z_][A-Za-z0-9_.]*)\+0x[0-9a-f]+/0x[0-9a-f]+`)
	numberPattern = regexp.MustCompile(`0x[0-9a-f]+|\b[0-9a-f]{8,16}\b|\[#\d+\]|\b\d+\b`)
	compilerTail  = regexp.MustCompile(`\.(?:isra|constprop|part|cold|llvm)(?:\.\d+)*`)
	atPattern     = regexp.MustCompile(`\+0x[0-9a-f]+/0x[0-9a-f]+`)
)

func stripContext(text string) string {
	text = stampPattern.ReplaceAllString(text, "")
	return callerPattern.ReplaceAllString(text, "")
}

// normal removes what differs between two hosts with the same fault:
// addresses, offsets, CPU and process numbers, counters and command names.
func normal(text string) string {
	if i := strings.Index(text, " Comm: "); i >= 0 {
		text = text[:i]
	}
	text = atPattern.ReplaceAllString(text, "")
	return numberPattern.ReplaceAllString(text, "N")
}

// frameOf reads the function of a stack frame the unwinder is sure of; those
// with a question mark are left out.
func frameOf(text string) (string, bool) {
	m := framePattern.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return compilerTail.ReplaceAllString(m[1], ""), true
}
