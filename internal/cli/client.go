package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"afloat/internal/api"
)

// client talks to the server over its local socket.
type client struct {
	http   *http.Client
	socket string
}

// serverFlag adds --socket to a command that talks to the server.
func serverFlag(cmd *cobra.Command) *string {
	return cmd.PersistentFlags().String("socket", "", "the server's socket (default $AFLOAT_SOCKET, else STATE/afloat.sock of the default state directory)")
}

// dial returns a client of the given socket, or of the one that the environment names.
func dial(socket string) *client {
	if socket == "" {
		socket = os.Getenv("AFLOAT_SOCKET")
	}
	if socket == "" {
		socket = filepath.Join(defaultState(), socketName)
	}
	return &client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}}
}

const socketName = "afloat.sock"

// defaultState is the state directory when nobody names one: /var/lib/afloat
// for root and where it exists, else the user's own.
func defaultState() string {
	const system = "/var/lib/afloat"
	if info, err := os.Stat(system); err == nil && info.IsDir() || os.Getuid() == 0 {
		return system
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "afloat")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return system
	}
	return filepath.Join(home, ".local", "state", "afloat")
}

func (c *client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, http.MethodGet, path, query, nil, out)
}

func (c *client) post(ctx context.Context, path string, in, out any) error {
	data, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return c.do(ctx, http.MethodPost, path, nil, bytes.NewReader(data), out)
}

func (c *client) do(ctx context.Context, method, path string, query url.Values, body io.Reader, out any) error {
	u := url.URL{Scheme: "http", Host: "afloat", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return refused(resp.StatusCode, data)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

func (c *client) unreachable(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return withHint(fmt.Errorf("cannot reach the server at %s: none is running there", c.socket),
			"start it with: afloat server; or name its socket with --socket or AFLOAT_SOCKET")
	case errors.Is(err, os.ErrPermission):
		return withHint(fmt.Errorf("cannot reach the server at %s: no permission", c.socket),
			"the socket is for its owner and group; ask to be added to the group")
	}
	return fmt.Errorf("cannot reach the server at %s: %w", c.socket, err)
}

func refused(status int, data []byte) error {
	var e api.Error
	if json.Unmarshal(data, &e) != nil || e.Error == "" {
		return fmt.Errorf("the server answered %d %s", status, http.StatusText(status))
	}
	if e.Hint != "" {
		return withHint(errors.New(e.Error), "%s", e.Hint)
	}
	return errors.New(e.Error)
}
