package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// qmpError is QEMU's refusal of a command.
type qmpError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *qmpError) Error() string { return e.Class + ": " + e.Desc }

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *qmpError       `json:"error"`
	Event    string          `json:"event"`
}

// qmp runs one command on QEMU's machine protocol socket in folder dir.
func qmp(ctx context.Context, dir, command string, args map[string]any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := dialIn(ctx, dir, qmpSocket)
	if err != nil {
		return fmt.Errorf("connect to qemu: %w", err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("connect to qemu: %w", err)
	}
	dec, enc := json.NewDecoder(conn), json.NewEncoder(conn)
	if err := qmpReply(dec); err != nil {
		return fmt.Errorf("greet qemu: %w", err)
	}
	for _, m := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": command, "arguments": args}} {
		if m["arguments"] == nil || args == nil {
			delete(m, "arguments")
		}
		if err := enc.Encode(m); err != nil {
			return fmt.Errorf("send qemu command %s: %w", command, err)
		}
		if err := qmpReply(dec); err != nil {
			return fmt.Errorf("qemu command %s: %w", command, err)
		}
	}
	return nil
}

// qmpReply reads up to the next greeting, return or error; events are skipped.
func qmpReply(dec *json.Decoder) error {
	for {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			return err
		}
		switch {
		case m.Error != nil:
			return m.Error
		case m.Event != "":
		case m.Greeting != nil || m.Return != nil:
			return nil
		default:
			return errors.New("unexpected message")
		}
	}
}

// dialIn connects to the unix socket name in dir. It goes through the folder's
// descriptor because a socket address holds only 107 bytes of path.
func dialIn(ctx context.Context, dir, name string) (net.Conn, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", d.Fd()), name)
	return new(net.Dialer).DialContext(ctx, "unix", path)
}
