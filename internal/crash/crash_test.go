package crash

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afloat/internal/wire"

	"github.com/google/go-cmp/cmp"
)

func parse(text string) []Fault {
	var p Parser
	var out []Fault
	for line := range strings.Lines(text) {
		if f := p.Add(Line{Text: strings.TrimSuffix(line, "\n")}); f != nil {
			out = append(out, *f)
		}
	}
	if f := p.Flush(); f != nil {
		out = append(out, *f)
	}
	return out
}

const nullDeref = `usb 1-1: new high-speed USB device
BUG: kernel NULL pointer dereference, address: 0000000000000008
#PF: supervisor write access in kernel mode
#PF: error_code(0x0002) - not-present page
PGD 0 P4D 0
Oops: 0002 [#1] PREEMPT SMP NOPTI
CPU: 0 PID: 1412 Comm: cat Tainted: G           OEK    6.1.0-55-amd64 #1  Debian 6.1.192-1
Hardware name: QEMU Standard PC (i440FX + PIIX, 1996), BIOS 1.16.0 04/01/2014
RIP: 0010:bad_show+0x1a/0x40 [afloat_0123456789ab]
Code: 0f 1f 44 00 00 31 c0 c3
RSP: 0018:ffffc90000a0fd68 EFLAGS: 00010246
Call Trace:
 <TASK>
 ? __die_body.cold+0x1a/0x1f
 seq_read_iter+0x123/0x480
 proc_reg_read_iter+0x4f/0x90
 vfs_read+0x201/0x350
 ksys_read+0x6f/0xf0
 </TASK>
Modules linked in: afloat_0123456789ab(OEK)
---[ end trace 0000000000000000 ]---
RIP: 0010:bad_show+0x1a/0x40 [afloat_0123456789ab]
note: cat[1412] exited with irqs disabled
`

func TestFindsFaults(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []wire.CrashKind
		headline   string
	}{
		{"null dereference", nullDeref, []wire.CrashKind{wire.CrashOops}, "BUG: kernel NULL pointer dereference"},
		{"general protection fault", `general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] PREEMPT SMP PTI
RIP: 0010:__list_del_entry_valid+0x1/0x90
---[ end trace 0000000000000000 ]---
`, []wire.CrashKind{wire.CrashOops}, "general protection fault"},
		{"BUG_ON", `------------[ cut here ]------------
kernel BUG at fs/ext4/inode.c:2734!
invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
RIP: 0010:ext4_writepages+0xfcc/0x1140 [ext4]
Call Trace:
 do_writepages+0xd1/0x1b0
---[ end trace 0000000000000000 ]---
`, []wire.CrashKind{wire.CrashOops}, "kernel BUG at"},
		{"WARN", `------------[ cut here ]------------
WARNING: CPU: 1 PID: 77 at kernel/workqueue.c:1842 __queue_work+0x2e/0x3c0
RIP: 0010:__queue_work+0x2e/0x3c0
Call Trace:
 queue_work_on+0x3e/0x50
---[ end trace 0000000000000000 ]---
`, []wire.CrashKind{wire.CrashWarning}, "WARNING: CPU: 1"},
		{"panic", "Kernel panic - not syncing: sysrq triggered crash\nCPU: 0 PID: 1 Comm: sh\nCall Trace:\n panic+0x10c/0x2e9\n---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n",
			[]wire.CrashKind{wire.CrashOops}, "Kernel panic"},
		{"soft lockup without an end", "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [insmod:310]\nRIP: 0010:spin+0x5/0x10 [m]\nCall Trace:\n do_one_initcall+0x56/0x220\n",
			[]wire.CrashKind{wire.CrashOops}, "watchdog: BUG"},
		{"hung task", "INFO: task jbd2/vda-8:120 blocked for more than 120 seconds.\n", []wire.CrashKind{wire.CrashWarning}, "INFO: task"},
		{"two oopses", nullDeref + nullDeref, []wire.CrashKind{wire.CrashOops, wire.CrashOops}, "BUG:"},
		{"oops, then panic", strings.TrimSuffix(nullDeref, "note: cat[1412] exited with irqs disabled\n") + "Kernel panic - not syncing: Fatal exception\n",
			[]wire.CrashKind{wire.CrashOops, wire.CrashOops}, "BUG:"},
		{"a process's own fault", "traps: web[77] general protection fault ip:40123 sp:7ffd error:0 in web[400000+1000]\nweb[78]: segfault at 0 ip 00 sp 00 error 4\n", nil, ""},
		{"what a device says", "ext4: BUG: not at the start of the line counts\nlivepatch: enabling patch 'afloat_x'\n", nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			faults := parse(tc.text)
			var kinds []wire.CrashKind
			for _, f := range faults {
				kinds = append(kinds, f.Kind)
			}
			if diff := cmp.Diff(tc.want, kinds); diff != "" {
				t.Fatalf("kinds (-want +got):\n%s", diff)
			}
			if len(faults) > 0 && !strings.HasPrefix(faults[0].Text, tc.headline) {
				t.Errorf("text begins %.60q", faults[0].Text)
			}
		})
	}
}

func TestSignatureIsTheSameForTheSameFault(t *testing.T) {
	elsewhere := strings.NewReplacer(
		"0000000000000008", "0000000000000010", "[#1]", "[#3]", "PID: 1412", "PID: 9", "Comm: cat", "Comm: nginx",
		"+0x1a/0x40", "+0x1c/0x44", "+0x123/0x480", "+0x120/0x47c", "[1412]", "[9]",
	).Replace(nullDeref)
	var stamped strings.Builder
	for line := range strings.Lines(elsewhere) {
		stamped.WriteString("[  123.456789] [ T1412] " + line)
	}
	want := parse(nullDeref)[0].Signature
	for name, text := range map[string]string{"other numbers": elsewhere, "stamps and callers": stamped.String()} {
		if got := parse(text)[0].Signature; got != want {
			t.Errorf("%s: signature %s, want %s", name, got, want)
		}
	}
	other := strings.ReplaceAll(nullDeref, "bad_show", "other_show")
	if parse(other)[0].Signature == want {
		t.Error("another function has the same signature")
	}
}

func TestKmsgRecords(t *testing.T) {
	for _, tc := range []struct {
		record string
		want   Line
		ok     bool
	}{
		{"4,419,5085627,-;BUG: x\n SUBSYSTEM=a\n", Line{Since: 5085627 * time.Microsecond, Text: "BUG: x"}, true},
		{"1,7,12,-,caller=T1;Oops: 0002\n", Line{Since: 12 * time.Microsecond, Text: "Oops: 0002"}, true},
		{"12,9,12,-;BUG: written by a process\n", Line{}, false}, // facility 1
		{"x,9,12,-;a\n", Line{}, false},
		{"4,9,12;a\n", Line{}, false},
		{"", Line{}, false},
	} {
		got, ok := parseKmsg([]byte(tc.record))
		if got != tc.want || ok != tc.ok {
			t.Errorf("%q: got %+v, %v", tc.record, got, ok)
		}
	}
}

func TestFollowEndsWithTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(path, []byte("4,1,1,-;only line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := Kmsg{Path: path}.Follow(t.Context(), func(l Line) { got = append(got, l.Text) })
	if err == nil || len(got) != 1 || got[0] != "only line" {
		t.Errorf("got %q, %v; want the line and the end of file", got, err)
	}
	if err := (Kmsg{Path: path + "x"}).Follow(t.Context(), func(Line) {}); err == nil {
		t.Error("no error for a log that is not there")
	}
}

func FuzzParser(f *testing.F) {
	f.Add(nullDeref)
	f.Add("[ 1.0] [ C0] WARNING: CPU: 1 PID\xff\n------------[ cut here ]------------\n---[ end")
	f.Fuzz(func(t *testing.T, text string) {
		for _, fault := range parse(text) {
			if fault.Kind == "" || len(fault.Signature) != 16 || fault.Text == "" || len(fault.Text) > textLines*201*3 {
				t.Errorf("malformed fault %+v", fault)
			}
		}
	})
}

func FuzzParseKmsg(f *testing.F) {
	f.Add([]byte("4,419,5085627,-;text\n"))
	f.Fuzz(func(t *testing.T, record []byte) {
		if l, ok := parseKmsg(record); ok && strings.Contains(l.Text, "\n") {
			t.Errorf("line holds a newline: %q", l.Text)
		}
	})
}
