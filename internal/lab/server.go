package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ServerDir is the folder of the lab's own afloat server.
func (l *Lab) ServerDir() string { return filepath.Join(l.dir, "server") }

// server is the lab's afloat server. Its state folder tells it apart.
func (l *Lab) server() process {
	return process{program: "afloat", marker: "--state=" + l.ServerDir()}
}

// ServerRunning says whether the lab's own server runs.
func (l *Lab) ServerRunning() bool { return l.server().pid() != 0 }

// StartServer starts `afloat server` from the binary bin; one that runs is
// left alone. The guests reach it at 10.0.2.2, which its certificate must name.
func (l *Lab) StartServer(bin string, more ...string) error {
	if l.ServerRunning() {
		return nil
	}
	if err := os.MkdirAll(l.ServerDir(), 0o750); err != nil {
		return fmt.Errorf("make server folder: %w", err)
	}
	argv := append([]string{bin}, l.serverArgs()...)
	return startDetached(l.dir, filepath.Join(l.dir, "server.log"), append(argv, more...)...)
}

// serverArgs is all that the lab knows of the server's flags.
func (l *Lab) serverArgs() []string {
	https, nats := l.ServerPorts()
	return []string{"server", l.server().marker,
		fmt.Sprintf("--listen=127.0.0.1:%d", https),
		fmt.Sprintf("--nats=127.0.0.1:%d", nats),
		"--advertise=10.0.2.2",
	}
}

// KillServer ends the server at once, as a crash would.
func (l *Lab) KillServer(ctx context.Context) error {
	return l.server().stop(ctx, unix.SIGKILL, 0)
}

func (l *Lab) stopServer(ctx context.Context) error {
	return l.server().stop(ctx, unix.SIGTERM, 5*time.Second)
}
