package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// qemuThatSays answers one connection's commands with the given lines.
func qemuThatSays(t *testing.T, lines ...string) (dir string, sent func() []string) {
	t.Helper()
	dir = t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, qmpSocket))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var got []string
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		commands := bufio.NewScanner(conn)
		for i, line := range lines {
			if i > 0 && commands.Scan() {
				got = append(got, commands.Text())
			}
			fmt.Fprintln(conn, line)
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return dir, func() []string { wg.Wait(); return got }
}

const greeting = `{"QMP": {"version": {}, "capabilities": []}}`

func TestQMP(t *testing.T) {
	dir, sent := qemuThatSays(t, greeting, `{"return": {}}`, `{"event": "NIC_RX_FILTER_CHANGED"}{"return": {}}`)
	if err := qmp(t.Context(), dir, "set_link", map[string]any{"name": "n0", "up": false}); err != nil {
		t.Fatal(err)
	}
	var command struct {
		Execute   string
		Arguments map[string]any
	}
	if err := json.Unmarshal([]byte(sent()[1]), &command); err != nil {
		t.Fatal(err)
	}
	if command.Execute != "set_link" || command.Arguments["name"] != "n0" || command.Arguments["up"] != false {
		t.Errorf("sent %+v", command)
	}
}

func TestQMPErrors(t *testing.T) {
	dir, _ := qemuThatSays(t, greeting, `{"return": {}}`, `{"error": {"class": "DeviceNotFound", "desc": "Device 'n9' not found"}}`)
	err := qmp(t.Context(), dir, "set_link", nil)
	if e, ok := errors.AsType[*qmpError](err); !ok || e.Class != "DeviceNotFound" || !strings.Contains(err.Error(), "set_link") {
		t.Errorf("refused command: %v", err)
	}
	for name, lines := range map[string][]string{
		"rubbish":          {"hello"},
		"strange greeting": {`{"hello": 1}`},
		"hangs up":         {greeting},
	} {
		dir, _ := qemuThatSays(t, lines...)
		if err := qmp(t.Context(), dir, "stop", nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := qmp(ctx, t.TempDir(), "stop", nil); err == nil {
		t.Error("command to no QEMU worked")
	}
}
