package store

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"

	"afloat/internal/fleet"
)

// Violation is something a connected client tried and was refused by NATS.
type Violation struct {
	// Host is the id in the client's verified JWT, "" when it had none that held.
	Host fleet.HostID
	// Remote is the address it came from.
	Remote string
	// What was tried: publish, subscribe or connect.
	What string
	// Detail in the NATS server's words: Subject "afloat.up.other.report".
	Detail string
}

// watch is the NATS server's logger: the only place where it tells of refused
// publishes, since they make no system event. It passes warnings on to slog.
type watch struct {
	ns    *server.Server
	log   *slog.Logger
	lines chan violationLine

	mu   sync.Mutex // guards last
	last string
}

// tryConnect is the Violation.What of a refused connection.
const tryConnect = "connect"

type violationLine struct {
	Violation
	cid uint64
}

// pendingViolations bounds what waits for the audit; more than that is dropped
// and only logged, so that a flood cannot stop the NATS server.
const pendingViolations = 256

func newWatch(ns *server.Server, log *slog.Logger) *watch {
	return &watch{ns: ns, log: log, lines: make(chan violationLine, pendingViolations)}
}

// run resolves each violation to its host. The lookup takes NATS locks, so it
// may not happen inside the log call.
func (w *watch) run(ctx context.Context, each func(Violation)) {
	for {
		select {
		case <-ctx.Done():
			return
		case line := <-w.lines:
			if line.What != tryConnect { // a JWT that did not connect proves nothing
				line.Host = w.host(line.cid)
			}
			each(line.Violation)
		}
	}
}

// host asks for the verified JWT name of a connection, open or just closed.
func (w *watch) host(cid uint64) fleet.HostID {
	conns, err := w.ns.Connz(&server.ConnzOptions{CID: cid, Username: true, State: server.ConnAll})
	if err != nil || len(conns.Conns) == 0 {
		return ""
	}
	user, err := jwt.DecodeUserClaims(conns.Conns[0].JWT)
	if err != nil {
		return ""
	}
	id, err := fleet.ParseHostID(user.Name)
	if err != nil {
		return ""
	}
	return id
}

// violationPattern reads a NATS log line. The quoted parts are what the client
// calls itself: they are skipped, never believed.
var violationPattern = regexp.MustCompile(
	`^(\S+) - cid:(\d+)(?: - "(?:[^"\\]|\\.)*")* - (Publish Violation|Subscription Violation|authentication error)(?: Too Many Tokens)?(?: - )?(.*)$`)

func parseViolation(line string) (violationLine, bool) {
	m := violationPattern.FindStringSubmatch(line)
	if m == nil {
		return violationLine{}, false
	}
	cid, err := strconv.ParseUint(m[2], 10, 64)
	if err != nil {
		return violationLine{}, false
	}
	what := map[string]string{
		"Publish Violation": "publish", "Subscription Violation": "subscribe", "authentication error": tryConnect,
	}[m[3]]
	return violationLine{cid: cid, Violation: Violation{Remote: m[1], What: what, Detail: m[4]}}, true
}

// Errorf implements the NATS server's Logger.
func (w *watch) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if line, ok := parseViolation(text); ok {
		select {
		case w.lines <- line:
			return
		default: // audited before it is logged, unless there are too many
		}
	}
	if strings.Contains(text, "TLS handshake error") {
		w.log.Debug("nats", "text", text)
		return
	}
	w.keep(text)
	w.log.Warn("nats", "text", text)
}

// Fatalf implements the NATS server's Logger. NATS would end the process here;
// afloat instead finds that nothing listens, and says why.
func (w *watch) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	w.keep(text)
	w.log.Error("nats", "text", text)
}

// Warnf implements the NATS server's Logger.
func (w *watch) Warnf(format string, v ...any) { w.log.Info("nats", "text", fmt.Sprintf(format, v...)) }

// Noticef implements the NATS server's Logger.
func (w *watch) Noticef(format string, v ...any) {
	w.log.Debug("nats", "text", fmt.Sprintf(format, v...))
}

// Debugf implements the NATS server's Logger.
func (w *watch) Debugf(string, ...any) {}

// Tracef implements the NATS server's Logger.
func (w *watch) Tracef(string, ...any) {}

func (w *watch) keep(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = text
}

// lastError is ": " and the last complaint, or "".
func (w *watch) lastError() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == "" {
		return ""
	}
	return ": " + w.last
}
