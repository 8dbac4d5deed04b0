// Package web serves HTTP: to hosts over TLS (join, renew, bundles) and to
// operators over a unix socket, where the peer's uid decides the role. It
// translates between JSON and the server's methods and decides nothing else.
package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/server"
	"afloat/internal/store"
	"afloat/internal/wire"
)

// Agents is the handler of the TLS listener.
func Agents(s *server.Server, log *slog.Logger) http.Handler {
	h := &agents{server: s, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathJoin, h.join)
	mux.HandleFunc("GET "+wire.PathNonce, h.nonce)
	mux.HandleFunc("POST "+wire.PathRenew, h.renew)
	mux.HandleFunc("GET "+wire.PathBundle+"{digest}", h.bundle)
	mux.HandleFunc("GET /healthz", h.health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s), promhttp.HandlerOpts{}))
	return mux
}

type agents struct {
	server *server.Server
	log    *slog.Logger
}

func (h *agents) join(w http.ResponseWriter, r *http.Request) {
	var req wire.JoinRequest
	if !readJSON(w, r, &req) {
		return
	}
	reply, err := h.server.Join(r.Context(), req, remote(r))
	respond(w, h.log, reply, err)
}

func (h *agents) nonce(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	respond(w, h.log, h.server.Nonce(), nil)
}

func (h *agents) renew(w http.ResponseWriter, r *http.Request) {
	var req wire.RenewRequest
	if !readJSON(w, r, &req) {
		return
	}
	reply, err := h.server.Renew(r.Context(), req, remote(r))
	respond(w, h.log, reply, err)
}

// bundle serves a file that its name is the hash of: any cache may keep it for ever.
func (h *agents) bundle(w http.ResponseWriter, r *http.Request) {
	d := bundle.Digest(r.PathValue("digest"))
	f, err := h.server.OpenBundle(r.Context(), d)
	if err != nil {
		respond(w, h.log, nil, err)
		return
	}
	defer f.Close()
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	w.Header().Set("ETag", `"`+string(d)+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (h *agents) health(w http.ResponseWriter, r *http.Request) {
	status, err := h.server.Status(r.Context())
	if err == nil && status.Held != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "held: "+status.Held)
		return
	}
	if err != nil {
		respond(w, h.log, nil, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

// remote is the peer's address as the audit records it.
func remote(r *http.Request) net.Addr { return textAddr(r.RemoteAddr) }

type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

// readJSON decodes one strict JSON value, or answers 400 and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxMessage))
	if err == nil {
		err = wire.Decode(data, v)
	}
	if err != nil {
		writeJSON(w, http.StatusBadRequest, api.Error{Error: "cannot read request: " + err.Error()})
		return false
	}
	return true
}

// respond writes v, or the error: a refusal with its hint, anything else
// without its details, which go to the log.
func respond(w http.ResponseWriter, log *slog.Logger, v any, err error) {
	if err == nil {
		writeJSON(w, http.StatusOK, v)
		return
	}
	if refused, ok := errors.AsType[*server.RefusedError](err); ok {
		writeJSON(w, http.StatusForbidden, api.Error{Error: refused.Reason, Hint: refused.Hint})
		return
	}
	if errors.Is(err, store.ErrNotFound) {
		writeJSON(w, http.StatusNotFound, api.Error{Error: "not found"})
		return
	}
	log.Error("request failed", "err", err)
	writeJSON(w, http.StatusInternalServerError, api.Error{Error: "the server could not do it: " + first(err.Error())})
}

// first is the first line of an error text.
func first(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, `{"error":"cannot encode the answer"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the peer may be gone: nobody is left to tell
}
