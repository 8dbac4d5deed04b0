package livepatch

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// syscalls are the two that cannot be answered by a tree of files.
type syscalls struct {
	load   func(fd int) error
	unload func(name string) error
}

func realSyscalls() syscalls {
	return syscalls{
		load:   func(fd int) error { return unix.FinitModule(fd, "", 0) },
		unload: func(name string) error { return unix.DeleteModule(name, unix.O_NONBLOCK) },
	}
}

// Load loads a module. For a live patch it returns when the transition has
// begun, not when it is over. The error is a *KernelError.
func (k *Kernel) Load(name string, module []byte) error {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("load module %s: make memory file: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if _, err := f.Write(module); err != nil {
		return fmt.Errorf("load module %s: fill memory file: %w", name, err)
	}
	if err := k.syscalls.load(fd); err != nil {
		return kernelError("load", name, err)
	}
	return nil
}

// Unload removes a module; a live patch must be disabled first. The error is a *KernelError.
func (k *Kernel) Unload(name string) error {
	if err := k.syscalls.unload(name); err != nil {
		return kernelError("unload", name, err)
	}
	return nil
}

// ErrUnsupported is what an UnsupportedError is.
var ErrUnsupported = errors.New("not supported by this kernel")

// UnsupportedError says what the kernel would need.
type UnsupportedError struct{ Needs string }

func (e *UnsupportedError) Error() string { return "kernel lacks " + e.Needs }

// Is makes errors.Is(err, ErrUnsupported) true.
func (e *UnsupportedError) Is(target error) bool { return target == ErrUnsupported }

// KernelError is the kernel's refusal of one operation.
type KernelError struct {
	Op    string // load, unload, enable or disable
	Name  string
	Errno unix.Errno
}

func (e *KernelError) Error() string {
	text := fmt.Sprintf("%s %s: %s", e.Op, e.Name, e.Errno.Error())
	if why := e.meaning(); why != "" {
		text += ": " + why
	}
	return text
}

func (e *KernelError) Unwrap() error { return e.Errno }

// Temporary says that the same operation may work a little later.
func (e *KernelError) Temporary() bool {
	switch e.Errno {
	case unix.EBUSY, unix.EAGAIN, unix.EINTR:
		return true
	}
	return false
}

type cause struct {
	op    string
	errno unix.Errno
}

// meanings of errors that a module load and the livepatch core of 6.1 return
// (kernel/module/main.c, kernel/livepatch/core.c).
var meanings = map[cause]string{
	{"load", unix.ENOEXEC}:      "invalid module format, built for another kernel",
	{"load", unix.EKEYREJECTED}: "this kernel takes signed modules only, and trusts no key that signed this one",
	{"load", unix.ENOKEY}:       "this kernel takes signed modules only, and trusts no key that signed this one",
	{"load", unix.EBADMSG}:      "the module's kernel signature is damaged",
	{"load", unix.EBUSY}:        "another live patch is in transition",
	{"load", unix.EEXIST}:       "a module of that name is loaded",
	{"load", unix.EINVAL}:       "the kernel cannot apply it: a function to patch is ambiguous or not traceable, or a state of the live patch before is missing",
	{"load", unix.ENOENT}:       "a symbol it needs is not in this kernel",
	{"load", unix.ENOSYS}:       "this kernel cannot live patch here (no reliable stack traces)",
	{"load", unix.EPERM}:        "not allowed: not root, modules disabled, or kernel lockdown",
	{"load", unix.EACCES}:       "not allowed by a security module",
	{"load", unix.ENOMEM}:       "not enough memory",
	{"unload", unix.EAGAIN}:     "still in use",
	{"unload", unix.EBUSY}:      "still in use",
	{"unload", unix.ENOENT}:     "no such module",
	{"unload", unix.EPERM}:      "not allowed: not root, or modules disabled",
	{"disable", unix.EBUSY}:     "another live patch is in transition",
	{"disable", unix.EINVAL}:    "it is disabled already",
	{"enable", unix.EINVAL}:     "it is enabled already",
	{"enable", unix.EBUSY}:      "another live patch is in transition",
}

func (e *KernelError) meaning() string { return meanings[cause{e.Op, e.Errno}] }

func kernelError(op, name string, err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return &KernelError{Op: op, Name: name, Errno: errno}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &KernelError{Op: op, Name: name, Errno: unix.ENOENT}
	}
	return fmt.Errorf("%s %s: %w", op, name, err)
}
