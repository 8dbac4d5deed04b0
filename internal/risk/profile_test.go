package risk

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/kernel"
)

const report = `# To display the perf.data header info, please use --header/--header-only options.
#
# Total Lost Samples: 0
#
# Samples: 2K of event 'cpu-clock:pppH'
# Event count (approx.): 534000000
#
# Overhead  Command          Shared Object         Symbol
# ........  ...............  ....................  ........................
#
    41.35%  swapper          [kernel.kallsyms]     [k] native_safe_halt
     7.50%  nginx            [kernel.kallsyms]     [k] copy_user_generic_string
     2.50%  postgres         [kernel.kallsyms]     [k] copy_user_generic_string
     3.21%  fio              [ext4]                [k] ext4_mb_find_by_goal.isra.0
     3.00%  nginx            libc.so.6             [.] read
     0.10%  Web Content      [kernel.kallsyms]     [k] vfs_read


#
# (Tip: Search options using a keyword: perf report -h <keyword>)
#
`

const tree = `# Children      Self  Command  Shared Object      Symbol
# ........  ........  .......  .................  ....................
#
    93.00%     0.00%  fio      [kernel.kallsyms]  [k] do_syscall_64
            |
            ---do_syscall_64
               |
               |--60.00%--ksys_read
               |          vfs_read
                --33.00%--ksys_write

    60.00%     1.25%  fio      [kernel.kallsyms]  [k] vfs_read
            |--58.75%--ext4_file_read_iter
`

const folded = `fio;[unknown];entry_SYSCALL_64;do_syscall_64;ksys_read;vfs_read 30
fio;[unknown];entry_SYSCALL_64;do_syscall_64;ksys_read;vfs_read;ext4_file_read_iter;vfs_read 10
swapper;cpu_startup_entry;native_safe_halt 60
`

const script = `cc1 19149 [000] 16581.570204:     250000 cpu-clock: 
	ffffffff822010c9 _raw_spin_unlock_irqrestore+0x19 ([kernel.kallsyms])
	ffffffff8136ab71 vfs_read.isra.0+0x91 ([kernel.kallsyms])
	          1598327 read+0x37 (/usr/lib/gcc/x86_64-linux-gnu/12/cc1)
	            75b51 [unknown] (/memfd:sealed (deleted))

kworker/0:1-ev    12 [001] 16581.570410:     250000 cpu-clock: 
	ffffffffc0a1b010 ext4_writepages+0x10 ([ext4])

swapper     0 [001] 16581.570511: cpu-clock:  ffffffff81e00000 native_safe_halt+0xe ([kernel.kallsyms])
:-1    -1 [001] 16581.592761:     250000 cpu-clock: 

Web Content 77/78 16581.6: cycles:
	               0 [unknown] ([unknown])
`

func TestReadProfile(t *testing.T) {
	for _, tt := range []struct {
		text, function string
		self, total    float64
	}{
		{report, "copy_user_generic_string", 0.1, 0},
		{report, "ext4_mb_find_by_goal", 0.0321, 0},
		{report, "ext4_mb_find_by_goal.isra.1", 0.0321, 0},
		{report, "vfs_read", 0.001, 0},
		{report, "read", 0, 0},
		{tree, "vfs_read", 0.0125, 0.6},
		{tree, "do_syscall_64", 0, 0.93},
		{tree, "ksys_write", 0, 0},
		{"    12.00%  [k] do_idle\n", "do_idle", 0.12, 0},
		{folded, "vfs_read", 0.4, 0.4},
		{folded, "ksys_read", 0, 0.4},
		{folded, "native_safe_halt", 0.6, 0.6},
		{folded, "swapper", 0, 0},
		{script, "vfs_read", 0, 0.2},
		{script, "_raw_spin_unlock_irqrestore", 0.2, 0.2},
		{script, "ext4_writepages", 0.2, 0.2},
		{script, "native_safe_halt", 0.2, 0.2},
		{script, "read", 0, 0},
		{"a;read;vfs_read_[k] 1\na;read 1\n", "vfs_read", 0.5, 0.5},
		{"a;read;vfs_read_[k] 1\na;read 1\n", "read", 0, 0},
	} {
		p, err := ReadProfile(strings.NewReader(tt.text))
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if s := p.Share(tt.function); math.Abs(s.Self-tt.self) > 1e-9 || math.Abs(s.Total-tt.total) > 1e-9 {
			t.Errorf("%s of %.30q: got %+v, want %v and %v", tt.function, tt.text, s, tt.self, tt.total)
		}
	}
}

func TestReadProfileErrors(t *testing.T) {
	for _, tt := range []struct {
		text string
		line int
		want string
	}{
		{"", 0, "no kernel function"},
		{"# Overhead  Symbol\n", 0, "no kernel function"},
		{"nothing\n", 1, "neither a line of perf report"},
		{"a;b 1\na;b x\n", 2, `"x" is no number of samples`},
		{"a;b -1\n", 1, "is no number of samples"},
		{"a;b 0\n", 0, "no kernel function"},
		{script + "\tnonsense\n", 15, "neither a sample of perf script nor one of its frames"},
		{"# Overhead  Command\n    50.00%  swapper\n", 2, "let perf report sort by symbol"},
		{"   250.00%  swapper [kernel.kallsyms] [k] do_idle\n", 1, "250.00% is no share"},
		{"a;" + strings.Repeat("b;", maxLine) + " 1\n", 1, "longer than"},
	} {
		_, err := ReadProfile(strings.NewReader(tt.text))
		e, ok := errors.AsType[*ProfileError](err)
		if !ok || e.Line != tt.line || !strings.Contains(e.Msg, tt.want) {
			t.Errorf("%.40q: got %v, want line %d and %q", tt.text, err, tt.line, tt.want)
		}
	}
}

func TestHot(t *testing.T) {
	p, err := ReadProfile(strings.NewReader(tree))
	if err != nil {
		t.Fatal(err)
	}
	got := p.Hot([]bundle.Function{{Object: "vmlinux", Name: "vfs_read"}, {Object: "vmlinux", Name: "do_syscall_64"}, {Object: "ext4", Name: "ext4_sync_file"}})
	if len(got) != 2 || got[0].Function != "vmlinux:vfs_read" || got[0].Kind != bundle.RiskHot ||
		!strings.HasPrefix(got[0].Why, "1.2 % of the profile's samples are in it, 60.0 % with what it calls") {
		t.Errorf("got %+v", got)
	}
}

func FuzzReadProfile(f *testing.F) {
	for _, seed := range []string{report, tree, folded, script, "a;b 1\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadProfile(strings.NewReader(string(data)))
		if err != nil {
			return
		}
		for name, s := range p.shares {
			if !(s.Self >= 0 && s.Self <= 1 && s.Total >= 0 && s.Total <= 1) {
				t.Errorf("%s has %+v", name, s)
			}
		}
	})
}

func TestSupportOf(t *testing.T) {
	for _, r := range releases() {
		for _, d := range []string{r.security, r.long} {
			if _, err := time.Parse(time.DateOnly, d); err != nil {
				t.Error(err)
			}
		}
	}
	for _, tt := range []struct{ version, at, want string }{
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-14)", "2026-07-11T23:59:00Z", "Debian 12 (bookworm): security support until 2026-07-11"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-14)", "2026-11-21T10:00:00Z", "Debian 12 (bookworm): security support ended on 2026-07-11, long-term support until 2028-06-30"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1~deb12u1 (2026-11-14)", "2026-11-21T10:00:00Z", "Debian 12 (bookworm): security support ended on 2026-07-11, long-term support until 2028-06-30"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.12.117-1 (2026-11-14)", "2026-11-21T10:00:00Z", "Debian 13 (trixie): security support until 2028-08-09"},
		{"#1 SMP Debian 5.10.249-1 (2026-01-14)", "2026-11-21T10:00:00Z", "Debian 11 (bullseye): no support since 2026-08-31: plan a newer kernel, new faults are not repaired in this one"},
		{"#1 SMP PREEMPT_DYNAMIC Debian 6.19.1-1 (2026-11-14)", "2026-11-21T10:00:00Z", ""},
		{"#1 SMP Ubuntu 6.1.0-1", "2026-11-21T10:00:00Z", ""},
		{"", "2026-11-21T10:00:00Z", ""},
	} {
		at, err := time.Parse(time.RFC3339, tt.at)
		if err != nil {
			t.Fatal(err)
		}
		s, known := SupportOf(kernel.ID{Version: tt.version}, at)
		if known != (tt.want != "") || known && s.String() != tt.want {
			t.Errorf("%s at %s: got %v %v, want %s", tt.version, tt.at, known, s, tt.want)
		}
	}
}

func TestReadConfig(t *testing.T) {
	for _, tt := range []struct {
		config, want string
		risks        int
	}{
		{"CONFIG_LIVEPATCH=y\nCONFIG_HAVE_RELIABLE_STACKTRACE=y\nCONFIG_UNWINDER_ORC=y\n", "CONFIG_LIVEPATCH, reliable stack traces, unwinder: ORC", 0},
		{"CONFIG_LIVEPATCH=y\nCONFIG_UNWINDER_FRAME_POINTER=y\n", "CONFIG_LIVEPATCH, no reliable stack traces, unwinder: frame pointers", 1},
		{"# CONFIG_LIVEPATCH is not set\n", "CONFIG_LIVEPATCH is off, no reliable stack traces", 2},
	} {
		p, err := ReadConfig(strings.NewReader(tt.config))
		if err != nil || p.String() != tt.want || len(p.Risks()) != tt.risks {
			t.Errorf("%q: got %s with %d risks, %v; want %s with %d", tt.config, p, len(p.Risks()), err, tt.want, tt.risks)
		}
	}
}
