package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/wire"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// link is the agent's line to the server: it asks for orders, delivers
// reports until they are acknowledged, beats, and renews the host's JWT.
type link struct {
	dir     string
	timing  Timing
	uptime  func() (time.Duration, error)
	log     *slog.Logger
	web     *web
	orders  chan received // size 1: only the newest counts
	nudged  chan struct{} // size 1: a signal
	changed chan struct{} // size 1: a signal
	refused chan struct{} // size 1: the server turned our JWT down

	mu     sync.Mutex // guards what follows
	id     Identity
	latest *wire.Report
	acked  map[string]bool // ids of refusals the server has
	seq    uint64
}

const maxAcked = 1000

// received is an answer to a request for orders, and when the request left.
type received struct {
	orders wire.Orders
	sent   time.Duration // CLOCK_BOOTTIME
}

func newLink(o Options, id Identity) (*link, error) {
	conf, err := pinnedTLS(id)
	if err != nil {
		return nil, err
	}
	return &link{
		dir: o.State, timing: o.Timing, uptime: o.Machine.Uptime, log: o.Log, id: id, web: newWeb(id.Server, conf),
		orders: make(chan received, 1), nudged: make(chan struct{}, 1), changed: make(chan struct{}, 1), refused: make(chan struct{}, 1),
		acked: map[string]bool{},
	}, nil
}

func (l *link) bundle(ctx context.Context, d bundle.Digest) ([]byte, error) {
	return l.web.bundle(ctx, d)
}

// run keeps the line up until ctx ends.
func (l *link) run(ctx context.Context) {
	defer l.web.client.CloseIdleConnections()
	nc, err := l.connect()
	if err != nil { // the options are wrong; nothing that waiting would mend
		l.log.Error("cannot connect", "err", err)
		return
	}
	var children sync.WaitGroup
	children.Go(func() { l.askLoop(ctx, nc) })
	children.Go(func() { l.reportLoop(ctx, nc) })
	children.Go(func() { l.renewLoop(ctx) })
	children.Wait()
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	nc.Close()
	<-closed
}

// connect dials in the background and for ever, with growing jittered pauses,
// so that a server that comes back is not run over.
func (l *link) connect() (*nats.Conn, error) {
	id := l.identity()
	pair, err := nkeys.FromSeed([]byte(id.Seed))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	conf, err := pinnedTLS(id)
	if err != nil {
		return nil, err
	}
	opts := nats.Options{
		Servers: id.NATS, Name: string(id.Host), Secure: true, TLSConfig: conf, NoEcho: true,
		InboxPrefix: wire.InboxPrefix(id.Host), RetryOnFailedConnect: true, AllowReconnect: true, MaxReconnect: -1,
		IgnoreAuthErrorAbort: true, ReconnectBufSize: -1, PingInterval: 20 * time.Second, MaxPingsOut: 2, Timeout: 10 * time.Second,
		UserJWT:                func() (string, error) { return l.identity().JWT, nil },
		SignatureCB:            pair.Sign,
		CustomReconnectDelayCB: reconnectDelay,
		ConnectedCB:            func(nc *nats.Conn) { l.connected(nc) },
		ReconnectedCB:          func(nc *nats.Conn) { l.connected(nc) },
		DisconnectedErrCB:      func(_ *nats.Conn, err error) { l.log.Warn("disconnected", "err", err) },
		ReconnectErrCB:         func(_ *nats.Conn, err error) { l.failed(err) },
		AsyncErrorCB:           func(_ *nats.Conn, _ *nats.Subscription, err error) { l.failed(err) },
		SubChanLen:             64,
	}
	nc, err := opts.Connect()
	if err != nil {
		return nil, err
	}
	if _, err := nc.Subscribe(wire.NudgeSubject(id.Host), func(*nats.Msg) { signal(l.nudged) }); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

const (
	firstDelay = 250 * time.Millisecond
	lastDelay  = 30 * time.Second
)

// reconnectDelay doubles up to lastDelay and spreads over half of itself.
func reconnectDelay(attempts int) time.Duration {
	d := min(lastDelay, firstDelay<<min(max(attempts-1, 0), 10))
	return d/2 + rand.N(d/2)
}

func (l *link) connected(nc *nats.Conn) {
	l.log.Info("connected", "server", nc.ConnectedUrlRedacted())
	signal(l.nudged)
	signal(l.changed)
}

// failed looks for what a new JWT mends.
func (l *link) failed(err error) {
	l.log.Debug("connection", "err", err)
	if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
		signal(l.refused)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// askLoop requests orders on connect, on a nudge and on a slow timer.
func (l *link) askLoop(ctx context.Context, nc *nats.Conn) {
	next := l.timing.Orders
	for {
		timer := time.NewTimer(next)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.nudged:
			timer.Stop()
		case <-timer.C:
		}
		next = l.ask(ctx, nc)
	}
}

// ask requests orders once and returns when to ask again.
func (l *link) ask(ctx context.Context, nc *nats.Conn) time.Duration {
	if !nc.IsConnected() {
		return l.timing.Orders // a new connection nudges
	}
	sent, err := l.uptime() // before the request leaves: a permit's time counts from here
	if err == nil {
		var o wire.Orders
		if err = l.request(ctx, nc, wire.OrdersSubject(l.identity().Host), nil, &o); err == nil {
			l.hand(received{o, sent})
			return l.nextAsk(o)
		}
	}
	if ctx.Err() == nil {
		l.log.Warn("orders not received", "err", err)
	}
	return min(l.timing.Orders, l.timing.Ack)
}

// nextAsk is early enough to renew a permit before it lapses. The permit is
// not verified here; a false one makes the host ask a little more often.
func (l *link) nextAsk(o wire.Orders) time.Duration {
	var p wire.Permit
	if o.Permit == nil || wire.Decode(o.Permit.Payload, &p) != nil {
		return l.timing.Orders
	}
	return min(l.timing.Orders, max(p.TTL/2, time.Second))
}

func (l *link) hand(got received) {
	select {
	case <-l.orders: // an older one that nobody took
	default:
	}
	l.orders <- got
}

func (l *link) request(ctx context.Context, nc *nats.Conn, subject string, body []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, l.timing.Ack)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil || out == nil {
		return err
	}
	return wire.Decode(m.Data, out)
}

// report takes the newest state of the host and sends it if anything that
// matters has changed.
func (l *link) report(r, head wire.Report) {
	r.Version, r.Host, r.Agent, r.Name = head.Version, head.Host, head.Agent, head.Name
	r.Labels, r.Refusals = head.Labels, append([]wire.Refusal(nil), head.Refusals...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest != nil && same(*l.latest, r) {
		return
	}
	l.latest = &r
	signal(l.changed)
}

func same(a, b wire.Report) bool {
	a.UptimeS, b.UptimeS, a.Seq, b.Seq = 0, 0, 0, 0
	if len(a.Refusals) == 0 && len(b.Refusals) == 0 {
		a.Refusals, b.Refusals = nil, nil
	}
	return reflect.DeepEqual(a, b)
}

// told says whether the server has acknowledged a refusal.
func (l *link) told(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[id]
}

// reportLoop delivers the newest report until it is acknowledged, and beats.
func (l *link) reportLoop(ctx context.Context, nc *nats.Conn) {
	beat := time.NewTicker(l.timing.Beat)
	defer beat.Stop()
	var pending *wire.Report
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			l.beat(nc)
			continue
		case <-l.changed:
			pending = l.take()
		case <-retry.C:
		}
		if pending != nil && nc.IsConnected() {
			if l.deliver(ctx, nc, *pending) {
				pending = nil
				continue
			}
			retry.Reset(time.Second + rand.N(time.Second))
		}
	}
}

// take is the newest report with the next number. Numbers grow over agent
// restarts too, because they never fall behind the milliseconds since boot.
func (l *link) take() *wire.Report {
	now, err := l.uptime()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest == nil {
		return nil
	}
	l.seq++
	if err == nil {
		l.seq = max(l.seq, uint64(now.Milliseconds()))
	}
	r := *l.latest
	r.Seq = l.seq
	return &r
}

func (l *link) deliver(ctx context.Context, nc *nats.Conn, r wire.Report) bool {
	body, err := json.Marshal(r)
	if err == nil {
		err = l.request(ctx, nc, wire.ReportSubject(r.Host), body, nil)
	}
	if err != nil {
		if ctx.Err() == nil {
			l.log.Warn("report not acknowledged", "err", err)
		}
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.acked) > maxAcked {
		clear(l.acked) // what comes up again is told again; the server audits it once
	}
	for _, refusal := range r.Refusals {
		l.acked[refusal.ID] = true
	}
	return true
}

func (l *link) beat(nc *nats.Conn) {
	l.mu.Lock()
	r, seq := l.latest, l.seq
	l.mu.Unlock()
	if r == nil || !nc.IsConnected() {
		return
	}
	body, err := json.Marshal(wire.Beat{Version: wire.Version, Boot: r.Boot, Generation: r.Generation, Seq: seq})
	if err == nil {
		err = nc.Publish(wire.BeatSubject(r.Host), body)
	}
	if err != nil {
		l.log.Debug("heartbeat not sent", "err", err)
	}
}

func (l *link) identity() Identity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}
