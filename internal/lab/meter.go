package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Meter sends requests at a constant rate, whether or not earlier ones were
// answered (open loop), so that a service that stands still is seen to. Each
// request has a connection of its own and is sent once: net/http repeats a
// request by itself only on a connection it has used before.
//
// A request fails when its answer is not 2xx, its connection breaks, or its
// whole answer is not there 5 s after the moment it was due. Latency counts
// from that moment too, so a late start hides nothing.
type Meter struct {
	URL  string
	Rate float64 // requests per second
	// Timeout after which a request has failed; 0 means 5 s.
	Timeout time.Duration

	mu       sync.Mutex // guards all below
	sent     int
	passed   []time.Duration
	failures map[string]int
}

// Load is what a meter has seen so far.
type Load struct {
	Requests int `json:"requests"` // that were due
	Failed   int `json:"failed"`
	Pending  int `json:"pending"` // not answered yet
	// Latencies of the requests that passed.
	P50 time.Duration `json:"p50_ns"`
	P95 time.Duration `json:"p95_ns"`
	P99 time.Duration `json:"p99_ns"`
	Max time.Duration `json:"max_ns"`
	// Failures by kind: "status 503", "timeout", "refused", "reset", "cut short" ...
	Failures map[string]int `json:"failures,omitempty"`
}

// Kinds lists the failures for people: "3 status 503, 1 timeout".
func (l Load) Kinds() string {
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(l.Failures)) {
		parts = append(parts, fmt.Sprintf("%d %s", l.Failures[kind], kind))
	}
	return strings.Join(parts, ", ")
}

const defaultTimeout = 5 * time.Second

// Meter returns a meter on the lab's load balancer.
func (l *Lab) Meter(rate float64) *Meter { return &Meter{URL: l.Proxy().URL(), Rate: rate} }

// Run sends requests until ctx ends or duration is over (0: no end), waits for
// the last answers, and returns the whole result. A Meter runs once. The error
// tells of a meter that could not work, never of requests that failed.
func (m *Meter) Run(ctx context.Context, duration time.Duration) (Load, error) {
	if m.Rate <= 0 || m.Rate > 100000 {
		return Load{}, fmt.Errorf("run meter: rate %g: want more than 0 and at most 100000 per second", m.Rate)
	}
	if _, err := http.NewRequest(http.MethodGet, m.URL, nil); err != nil {
		return Load{}, fmt.Errorf("run meter: %w", err)
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a redirect is not 2xx
	}}
	var inFlight sync.WaitGroup
	start := time.Now()
	for i := 0; ; i++ {
		due := start.Add(time.Duration(float64(i) / m.Rate * float64(time.Second)))
		if duration > 0 && due.Sub(start) >= duration || !sleepUntil(ctx, due) {
			break
		}
		m.begin()
		inFlight.Go(func() {
			// Not ctx: requests that are on their way when the meter stops still count.
			m.end(due, fetch(context.WithoutCancel(ctx), client, m.URL, due.Add(m.timeout())))
		})
	}
	inFlight.Wait()
	return m.Snapshot(), nil
}

func (m *Meter) timeout() time.Duration {
	if m.Timeout > 0 {
		return m.Timeout
	}
	return defaultTimeout
}

// sleepUntil returns false when ctx ended first.
func sleepUntil(ctx context.Context, due time.Time) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}

func (m *Meter) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sent++
}

func (m *Meter) end(due time.Time, failure string) {
	took := time.Since(due)
	m.mu.Lock()
	defer m.mu.Unlock()
	if failure == "" && took > m.timeout() {
		failure = "timeout"
	}
	if failure == "" {
		m.passed = append(m.passed, took)
		return
	}
	if m.failures == nil {
		m.failures = map[string]int{}
	}
	m.failures[failure]++
}

// Snapshot is the result so far; it may be taken while the meter runs.
func (m *Meter) Snapshot() Load {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := Load{Requests: m.sent}
	for kind, n := range m.failures {
		if l.Failures == nil {
			l.Failures = map[string]int{}
		}
		l.Failures[kind] = n
		l.Failed += n
	}
	l.Pending = l.Requests - l.Failed - len(m.passed)
	if len(m.passed) == 0 {
		return l
	}
	sorted := slices.Sorted(slices.Values(m.passed))
	l.P50, l.P95, l.P99 = quantile(sorted, 50), quantile(sorted, 95), quantile(sorted, 99)
	l.Max = sorted[len(sorted)-1]
	return l
}

// quantile is the smallest value that at least percent of all are not above.
func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// fetch sends one request and returns "" or the kind of its failure.
func fetch(ctx context.Context, client *http.Client, url string, deadline time.Time) string {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "other"
	}
	res, err := client.Do(req)
	if err != nil {
		return failureKind(err)
	}
	defer res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Sprintf("status %d", res.StatusCode)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return failureKind(err)
	}
	return ""
}

func failureKind(err error) string {
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), isNet && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "cut short"
	}
	return "other"
}
