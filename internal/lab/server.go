package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"afloat/internal/lab/guestwire"
)

// ServerDir is the folder of the lab's own afloat server.
func (l *Lab) ServerDir() string { return filepath.Join(l.dir, "server") }

// server is the lab's afloat server. Its state folder tells it apart.
func (l *Lab) server() process {
	return process{program: "afloat", marker: "--state=" + l.ServerDir()}
}

// ServerRunning says whether the lab's own server runs.
func (l *Lab) ServerRunning() bool { return l.server().pid() != 0 }

// StartServer starts `afloat server` from the binary bin, which must be named
// afloat; one that runs is left alone. It returns before the server answers.
func (l *Lab) StartServer(bin string, more ...string) error {
	if l.ServerRunning() {
		return nil
	}
	if err := os.MkdirAll(l.ServerDir(), 0o750); err != nil {
		return fmt.Errorf("make server folder: %w", err)
	}
	argv := append([]string{bin}, l.serverArgs()...)
	return startDetached(l.dir, l.ServerLog(), append(argv, more...)...)
}

// ServerLog is the path of all that the lab's own server said.
func (l *Lab) ServerLog() string { return filepath.Join(l.dir, "server.log") }

// ServerSocket is where the command line reaches the lab's own server.
func (l *Lab) ServerSocket() string { return filepath.Join(l.ServerDir(), "afloat.sock") }

// PublishersDir holds the .pub files of the publishers whose bundles the lab's
// own server takes.
func (l *Lab) PublishersDir() string { return filepath.Join(l.dir, "publishers") }

// serverArgs is all that the lab knows of the server's flags.
func (l *Lab) serverArgs() []string {
	https, nats := l.ServerPorts()
	args := []string{"server", l.server().marker,
		fmt.Sprintf("--listen=127.0.0.1:%d", https),
		fmt.Sprintf("--listen-nats=127.0.0.1:%d", nats),
		"--advertise=" + guestwire.Gateway + ",127.0.0.1",
	}
	if keys, err := filepath.Glob(filepath.Join(l.PublishersDir(), "*.pub")); err == nil && len(keys) > 0 {
		args = append(args, "--publishers="+l.PublishersDir())
	}
	return args
}

// KillServer ends the server at once, as a crash would.
func (l *Lab) KillServer(ctx context.Context) error {
	return l.server().stop(ctx, unix.SIGKILL, 0)
}

func (l *Lab) stopServer(ctx context.Context) error {
	return l.server().stop(ctx, unix.SIGTERM, 5*time.Second)
}
