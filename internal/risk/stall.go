package risk

import (
	"fmt"
	"slices"
	"strings"
)

// A task leaves the old code for the patched one when none of the replaced
// functions is on its stack (Documentation/livepatch/livepatch.rst, consistency
// model). So a function that a task sleeps in, or below, holds the transition up.

// The kernel retries every second, and after SIGNALS_TIMEOUT (15) tries pokes
// the tasks that are left: user tasks return from what they wait for, kernel
// threads are only woken up (kernel/livepatch/transition.c).

// How far calls are followed, from a thread's main function and from a system call.
const (
	threadDepth  = 3
	syscallDepth = 6
	// shared is how many callers make a function too common to tell that a
	// certain thread or system call is what it waits for.
	shared = 6
)

// waits says that a task sleeps in the function until something happens that
// may be long in coming. Locks, disk and memory are waited for as well, but
// shortly: nothing is said of those.
func waits(name string) bool {
	switch name {
	case "schedule", "schedule_timeout", "schedule_timeout_interruptible", "schedule_timeout_idle", "schedule_timeout_killable",
		"schedule_hrtimeout", "schedule_hrtimeout_range", "schedule_hrtimeout_range_clock", "wait_woken", "do_wait_intr", "do_wait_intr_irq",
		"msleep_interruptible", "kthread_parkme", "__kthread_parkme", "freezable_schedule", "freezable_schedule_timeout",
		"wait_for_completion_interruptible", "wait_for_completion_killable":
		return true
	}
	return false
}

// short names functions that sleep for a moment only: calls are not followed into them.
func short(name string) bool {
	for _, word := range []string{"mutex", "rwsem", "down_", "percpu_", "synchronize_", "flush_", "cancel_", "wait_on_bit", "io_schedule",
		"bit_wait", "folio_wait", "preempt_schedule", "cond_resched", "might_", "rcu_", "wait_for_completion", "alloc", "free", "printk", "request_module",
		"usermodehelper", "usleep", "ww_", "semaphore", "lock_sock", "kthread_stop", "stop_machine", "stop_one_cpu", "stop_cpus", "wait_rcu_gp"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return name == "msleep" || name == "_printk"
}

// everybody is on the stack of every sleeping task, or of every thread.
func everybody(name string) bool {
	switch name {
	case "schedule", "__schedule", "kthread", "ret_from_fork", "kthreadd", "worker_thread", "smpboot_thread_fn", "do_idle", "cpu_startup_entry":
		return true
	}
	return false
}

// above are functions that reach the waits of files and sockets through
// pointers, where no call graph shows it.
func above(name string) bool {
	switch name {
	case "ksys_read", "vfs_read", "new_sync_read", "do_iter_read", "vfs_readv", "do_readv", "vfs_iter_read", "tty_read", "fuse_dev_read", "fuse_dev_do_read",
		"sock_recvmsg", "sock_read_iter", "__sys_recvfrom", "__sys_recvmsg", "___sys_recvmsg", "____sys_recvmsg", "__sys_recvmmsg", "do_recvmmsg",
		"inet_recvmsg", "inet6_recvmsg", "tcp_recvmsg", "tcp_recvmsg_locked", "udp_recvmsg", "udpv6_recvmsg", "__skb_recv_udp", "unix_stream_recvmsg",
		"unix_dgram_recvmsg", "__unix_dgram_recvmsg", "netlink_recvmsg", "skb_recv_datagram", "__skb_recv_datagram", "packet_recvmsg",
		"__sys_accept4", "__sys_accept4_file", "do_accept", "inet_accept", "unix_accept", "vfs_ioctl", "kvm_vcpu_ioctl", "vcpu_run", "kvm_arch_vcpu_ioctl_run",
		"kernel_clone", "wait_for_vfork_done":
		return true
	}
	return false
}

// patient are system calls that wait for as long as their caller likes.
func patient() []string {
	return []string{"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "nanosleep", "clock_nanosleep", "futex", "futex_waitv",
		"wait4", "waitid", "waitpid", "pause", "rt_sigsuspend", "rt_sigtimedwait", "msgrcv", "mq_timedreceive", "semop", "semtimedop", "io_getevents", "io_pgetevents",
		"io_uring_enter", "flock", "accept", "accept4", "vfork"}
}

// stall is why a function may hold a transition up. Always means that it will,
// for as long as a thread or task lives.
type stall struct {
	always bool
	why    string
}

type stalls map[int32]stall

func (c *Code) stalls() stalls {
	out := stalls{}
	for i, f := range c.functions {
		switch {
		case f.boot:
		case everybody(f.name):
			out[int32(i)] = stall{true, "it is on the stack of every task that sleeps, or of every kernel thread: the transition cannot end"}
		case f.thread:
			out[int32(i)] = stall{true, "it is the main function of a kernel thread: while one runs it, the transition cannot end"}
		case above(f.name):
			out[int32(i)] = stall{why: "tasks that read from a file or socket wait below it, for as long as nothing comes"}
		}
	}
	for i, f := range c.functions {
		if f.thread && !f.boot {
			c.belowThread(int32(i), out)
		}
	}
	for _, name := range patient() {
		for _, prefix := range []string{"__x64_sys_", "__do_sys_", "__se_sys_"} {
			for _, i := range c.byName[prefix+name] {
				c.belowCall(i, name, out)
			}
		}
	}
	for i, f := range c.functions {
		if _, known := out[int32(i)]; known || f.boot {
			continue
		}
		if wait := f.waitsIn(c); wait != "" && !waits(f.name) && !short(f.name) {
			out[int32(i)] = stall{why: fmt.Sprintf("a task may sleep in it (%s), and holds the transition up as long", wait)}
		}
	}
	return out
}

// waitsIn names the wait that a function calls itself, "" for none.
func (f *function) waitsIn(c *Code) string {
	for _, t := range f.calls {
		if waits(c.functions[t].name) {
			return c.functions[t].name
		}
	}
	return ""
}

// belowThread finds what is called from a thread's main function, and from
// nowhere else, down to where the thread waits.
func (c *Code) belowThread(main int32, out stalls) {
	own := map[int32]bool{main: true}
	level := []int32{main}
	for range threadDepth {
		var next []int32
		for _, i := range level {
			for _, t := range c.functions[i].calls {
				f := &c.functions[t]
				if !own[t] && !f.boot && !waits(f.name) &&
					!slices.ContainsFunc(f.callers, func(from int32) bool { return !own[from] }) {
					own[t] = true
					next = append(next, t)
				}
			}
		}
		level = next
	}
	c.mark(own, out, "the kernel thread of "+c.functions[main].name+" waits in it, or below it: no signal wakes it up")
}

// belowCall finds what leads from a system call to where its caller waits.
func (c *Code) belowCall(entry int32, name string, out stalls) {
	reach := map[int32]bool{entry: true}
	level := []int32{entry}
	for range syscallDepth {
		var next []int32
		for _, i := range level {
			for _, t := range c.functions[i].calls {
				f := &c.functions[t]
				if !reach[t] && !f.boot && !short(f.name) && !waits(f.name) && len(f.callers) <= shared {
					reach[t] = true
					next = append(next, t)
				}
			}
		}
		level = next
	}
	c.mark(reach, out, "tasks in "+name+"(2) wait in it, or below it, for as long as they like: the kernel wakes them up after about 15 s")
}

// mark keeps of a set the functions that wait, and those that lead to one in it.
func (c *Code) mark(set map[int32]bool, out stalls, why string) {
	var todo []int32
	kept := map[int32]bool{}
	for i := range set {
		if c.functions[i].waitsIn(c) != "" {
			kept[i] = true
			todo = append(todo, i)
		}
	}
	for len(todo) > 0 {
		i := todo[0]
		todo = todo[1:]
		for _, from := range c.functions[i].callers {
			if set[from] && !kept[from] {
				kept[from] = true
				todo = append(todo, from)
			}
		}
	}
	for i := range kept {
		if _, known := out[i]; !known {
			out[i] = stall{why: why}
		}
	}
}
