package livepatch

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
)

// Task is a thread that has not switched to a transition's target yet.
type Task struct {
	PID  int // of the thread
	Comm string
}

// Stalled lists the threads that hold up the transition of a live patch, by
// /proc/PID/task/TID/patch_state: -1 outside a transition, 0 unpatched, 1 patched.
func (k *Kernel) Stalled(name string) ([]Task, error) {
	p, err := k.Patch(name)
	if err != nil {
		return nil, err
	}
	if !p.Transition {
		return nil, nil
	}
	threads, err := fs.Glob(k.proc.FS(), "[0-9]*/task/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	var tasks []Task
	for _, dir := range threads {
		task, behind, err := k.behind(dir, p.Enabled)
		if err != nil {
			return nil, fmt.Errorf("read thread %s: %w", dir, err)
		}
		if behind {
			tasks = append(tasks, task)
		}
	}
	return tasks, nil
}

// behind says whether a thread is not where the transition goes. A thread that
// has exited holds nothing up.
func (k *Kernel) behind(dir string, target bool) (Task, bool, error) {
	data, err := k.proc.ReadFile(path.Join(dir, "patch_state"))
	if gone(err) {
		return Task{}, false, nil
	}
	if err != nil {
		return Task{}, false, err
	}
	state, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || state < -1 || state > 1 {
		return Task{}, false, fmt.Errorf("patch_state %.20q is not -1, 0 or 1", data)
	}
	if state == -1 || (state == 1) == target {
		return Task{}, false, nil
	}
	comm, err := k.proc.ReadFile(path.Join(dir, "comm"))
	if err != nil && !gone(err) {
		return Task{}, false, err
	}
	pid, err := strconv.Atoi(path.Base(dir))
	if err != nil {
		return Task{}, false, err
	}
	return Task{PID: pid, Comm: strings.TrimSpace(string(comm))}, true, nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
