package risk

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"afloat/internal/bundle"
	"afloat/internal/elfdiff"
	"afloat/internal/kernel"
	"afloat/internal/kit/kittest"
)

const testBase = 0xffffffff81000000

// program is a small kernel: a line for each function with what it calls. A
// leading - says that it has no entry hook, "thread X" starts X as a kernel thread.
const program = `
__fentry__
schedule
kthread_create_on_node
mutex_lock: schedule
- entry_code: fixed
fixed: mutex_lock
kthread: main_loop
boot: thread main_loop, thread other_main
main_loop: loop_step, shared_step
loop_step: doze
doze: schedule
shared_step: schedule
other_main: shared_step
__x64_sys_poll: do_poll, fixed
do_poll: poll_wait
poll_wait: schedule
vfs_read: fixed
`

// assemble makes an ELF file of the program, and its symbols.
func assemble(t testing.TB, program string) ([]byte, *kernel.Kallsyms) {
	t.Helper()
	addr := map[string]uint64{}
	var symbols []kernel.Symbol
	lines := strings.Split(strings.TrimSpace(program), "\n")
	for i, line := range lines {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "- "), ":")
		addr[name] = testBase + uint64(i)*64
		symbols = append(symbols, kernel.Symbol{Addr: addr[name], Type: 't', Name: name})
	}
	text := bytes.Repeat([]byte{0xcc}, 64*len(lines))
	for i, line := range lines {
		_, calls, _ := strings.Cut(line, ":")
		at := i * 64
		emit := func(b ...byte) { at += copy(text[at:], b) }
		call := func(to string) {
			if addr[to] == 0 {
				t.Fatalf("%q is called and not there", to)
			}
			emit(append([]byte{opCall}, binary.LittleEndian.AppendUint32(nil, uint32(addr[to]-(testBase+uint64(at)+5)))...)...)
		}
		if !strings.HasPrefix(line, "- ") {
			emit(0xf3, 0x0f, 0x1e, 0xfa)
			call("__fentry__")
		}
		for c := range strings.SplitSeq(calls, ",") {
			c = strings.TrimSpace(c)
			main, thread := strings.CutPrefix(c, "thread ")
			if thread {
				emit(append([]byte{0x48, 0xc7, 0xc7}, binary.LittleEndian.AppendUint32(nil, uint32(addr[main]))...)...)
				c = "kthread_create_on_node"
			}
			if c != "" {
				call(c)
			}
		}
	}
	return elfFile(text), kernel.NewKallsyms(symbols)
}

// elfFile is an ELF file with a .text section and nothing else.
func elfFile(text []byte) []byte {
	const head, entry = 64, 64
	names := "\x00.text\x00.shstrtab\x00"
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: head, Shentsize: entry, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(head + len(text) + len(names))}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	for _, part := range []any{
		h, text, []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_ALLOC | elf.SHF_EXECINSTR), Addr: testBase, Off: head, Size: uint64(len(text))},
		elf.Section64{Name: 7, Type: uint32(elf.SHT_STRTAB), Off: uint64(head + len(text)), Size: uint64(len(names))},
	} {
		_ = binary.Write(&b, binary.LittleEndian, part) // into memory
	}
	return b.Bytes()
}

func notesOf(notes Notes, object string, names ...string) []string {
	var out []string
	for _, name := range names {
		for _, r := range notes.Of(bundle.Function{Object: object, Name: name}) {
			out = append(out, string(r.Kind)+" "+r.Function+": "+r.Why)
		}
	}
	return out
}

func TestNotes(t *testing.T) {
	file, symbols := assemble(t, program)
	c, err := ReadVmlinux(bytes.NewReader(file), symbols)
	if err != nil {
		t.Fatal(err)
	}
	got := notesOf(c.NotesOf("vmlinux"), "vmlinux", "main_loop", "loop_step", "doze", "shared_step", "do_poll", "poll_wait",
		"vfs_read", "fixed", "schedule", "mutex_lock", "boot", "nowhere")
	want := []string{
		"stuck vmlinux:main_loop: it is the main function of a kernel thread: while one runs it, the transition cannot end",
		"stall vmlinux:loop_step: the kernel thread of main_loop waits in it, or below it: no signal wakes it up",
		"stall vmlinux:doze: the kernel thread of main_loop waits in it, or below it: no signal wakes it up",
		"stall vmlinux:shared_step: a task may sleep in it (schedule), and holds the transition up as long",
		"stall vmlinux:do_poll: tasks in poll(2) wait in it, or below it, for as long as they like: the kernel wakes them up after about 15 s",
		"stall vmlinux:poll_wait: tasks in poll(2) wait in it, or below it, for as long as they like: the kernel wakes them up after about 15 s",
		"stall vmlinux:vfs_read: tasks that read from a file or socket wait below it, for as long as nothing comes",
		"untraced-caller vmlinux:fixed: entry_code cannot be traced and calls it: their calls reach the patched function, but what the compiler inlined into them stays as it was",
		"stuck vmlinux:schedule: it is on the stack of every task that sleeps, or of every kernel thread: the transition cannot end",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// openKernel opens a file of the kit that tests use.
func openKernel(t *testing.T, path string) *os.File {
	t.Helper()
	k := kittest.Open(t, "debian:6.1.0-55-amd64")
	matches, err := filepath.Glob(filepath.Join(k.Dir, path))
	if err != nil || len(matches) != 1 {
		t.Fatalf("%v in the kit for %s, %v", matches, path, err)
	}
	f, err := os.Open(matches[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestNotesOfRealKernel checks functions of which a reader of Linux 6.1 knows
// where they sleep.
func TestNotesOfRealKernel(t *testing.T) {
	f := openKernel(t, "vmlinux")
	symbols, err := kernel.ParseKallsyms(f)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadVmlinux(f, symbols)
	if err != nil {
		t.Fatal(err)
	}
	file := openKernel(t, "modules/fs/jbd2/jbd2.ko*")
	packed, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	ko, err := kernel.Decompress(packed)
	if err != nil {
		t.Fatal(err)
	}
	module, err := elfdiff.Read(bytes.NewReader(ko))
	if err != nil {
		t.Fatal(err)
	}
	notes := map[string]Notes{"vmlinux": c.NotesOf("vmlinux"), "jbd2": ReadModule("jbd2", module).NotesOf("jbd2")}
	for function, kinds := range map[string]string{
		"vmlinux:kswapd": "stuck", "vmlinux:kauditd_thread": "stuck", "vmlinux:rcu_gp_kthread": "stuck", "vmlinux:worker_thread": "stuck",
		"vmlinux:schedule": "stuck", "jbd2:kjournald2": "stuck",
		"vmlinux:do_epoll_wait": "stall", "vmlinux:do_sys_poll": "stall", "vmlinux:do_nanosleep": "stall", "vmlinux:futex_wait": "stall",
		"vmlinux:do_wait": "stall", "vmlinux:pipe_read": "stall", "vmlinux:n_tty_read": "stall", "vmlinux:inet_csk_accept": "stall",
		"vmlinux:unix_stream_read_generic": "stall", "jbd2:jbd2_log_wait_commit": "stall",
		"vmlinux:version_proc_show": "", "vmlinux:copy_process": "", "vmlinux:ext4_da_write_begin": "", "jbd2:jbd2_journal_add_journal_head": "",
	} {
		var got []string
		object, name, _ := strings.Cut(function, ":")
		for _, n := range notesOf(notes[object], object, name) {
			if kind, _, _ := strings.Cut(n, " "); kind != "untraced-caller" {
				got = append(got, kind)
			}
		}
		if strings.Join(got, " ") != kinds {
			t.Errorf("%s: got %q, want %q", function, got, kinds)
		}
	}
}

func FuzzReadVmlinux(f *testing.F) {
	file, symbols := assemble(f, program)
	f.Add(file)
	f.Add(elfFile(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ReadVmlinux(bytes.NewReader(data), symbols)
		if err != nil {
			return
		}
		c.NotesOf("vmlinux")
	})
}

func FuzzReadModule(f *testing.F) {
	paths, err := filepath.Glob("../proof/testdata/*.o")
	if err != nil || len(paths) == 0 {
		f.Fatalf("%d objects, %v", len(paths), err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := elfdiff.Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		c := ReadModule("fuzz", o)
		for _, fn := range c.functions {
			for _, to := range fn.calls {
				if int(to) >= len(c.functions) {
					t.Fatalf("%s calls function %d of %d", fn.name, to, len(c.functions))
				}
			}
		}
		c.NotesOf("fuzz")
	})
}
