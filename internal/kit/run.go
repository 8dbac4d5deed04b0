package kit

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// CommandError is a program that ended badly, with the end of what it wrote.
type CommandError struct {
	Command string
	Output  string // the last lines
	Err     error
}

func (e *CommandError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("run %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("run %s: %v\n%s", e.Command, e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

// run runs a program in dir and returns what it wrote to standard output.
// A cancelled context ends the program and its children.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := command(ctx, dir, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("run %s: %w", name, context.Cause(ctx))
		}
		return nil, &CommandError{Command: strings.Join(append([]string{name}, args...), " "), Output: tail(out.String()+said.String(), 15), Err: err}
	}
	return out.Bytes(), nil
}

func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, Environ(os.Environ())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Environ is the environment for make and gcc: the caller's without what
// steers kbuild, make or the compiler, and with untranslated messages.
func Environ(from []string) []string {
	steering := []string{"MAKE", "KBUILD", "KCFLAGS", "KCPPFLAGS", "KAFLAGS", "ARCH", "CROSS_COMPILE", "CC", "LD", "AR", "LLVM",
		"HOSTCC", "HOSTCFLAGS", "CFLAGS", "LDFLAGS", "CPATH", "C_INCLUDE_PATH", "GCC_", "O", "V", "W", "C", "SUBARCH", "LC_", "LANG", "PAHOLE"}
	out := []string{}
next:
	for _, pair := range from {
		name, _, _ := strings.Cut(pair, "=")
		for _, s := range steering {
			if name == s || len(s) > 2 && strings.HasPrefix(name, s) {
				continue next
			}
		}
		out = append(out, pair)
	}
	return append(out, "LC_ALL=C")
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
