package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// measure runs n requests at 200 per second against h.
func measure(t *testing.T, n int, timeout time.Duration, h http.HandlerFunc) Load {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	m := &Meter{URL: s.URL, Rate: 200, Timeout: timeout}
	load, err := m.Run(t.Context(), time.Duration(n)*time.Second/200)
	if err != nil {
		t.Fatal(err)
	}
	return load
}

func TestMeterCountsEachRequestOnce(t *testing.T) {
	var served atomic.Int64
	load := measure(t, 40, 0, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	if load.Requests != 40 || load.Failed != 0 || load.Pending != 0 || served.Load() != 40 {
		t.Errorf("load %+v, %d served; want 40 requests, each served once", load, served.Load())
	}
	if load.P50 <= 0 || load.P50 > load.P95 || load.P95 > load.P99 || load.P99 > load.Max {
		t.Errorf("latencies are out of order: %+v", load)
	}
}

// TestMeterSeesFailures is the control: each kind of failure must be counted.
func TestMeterSeesFailures(t *testing.T) {
	for name, test := range map[string]struct {
		fail func(http.ResponseWriter, *http.Request)
		kind string
	}{
		"error":    {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, "status 503"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }, "status 302"},
		"broken":   {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, "cut short"},
		"half": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "half")
		}, "cut short"},
		"hangs": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			var n, failed atomic.Int64
			load := measure(t, 20, 300*time.Millisecond, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1)%4 == 0 {
					failed.Add(1)
					test.fail(w, r)
				}
			})
			if load.Requests != 20 || load.Failed != 5 || n.Load() != 20 {
				t.Errorf("load %+v with %d served, %d of them made to fail; want 20, 5", load, n.Load(), failed.Load())
			}
			if diff := cmp.Diff(map[string]int{test.kind: 5}, load.Failures); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMeterIsOpenLoop(t *testing.T) {
	// Every answer takes 60 ms; a meter that waited for answers would send 4
	// requests in 200 ms and not 40.
	var most, now atomic.Int64
	load := measure(t, 40, 0, func(w http.ResponseWriter, r *http.Request) {
		for n := now.Add(1); ; {
			old := most.Load()
			if n <= old || most.CompareAndSwap(old, n) {
				break
			}
		}
		defer now.Add(-1)
		select {
		case <-time.After(60 * time.Millisecond):
		case <-r.Context().Done():
		}
	})
	if load.Requests != 40 || load.Failed != 0 || load.P50 < 60*time.Millisecond {
		t.Errorf("load %+v, want 40 requests of 60 ms", load)
	}
	if most.Load() < 4 {
		t.Errorf("at most %d requests were open at once", most.Load())
	}
}

func TestMeterRefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	load, err := (&Meter{URL: "http://" + l.Addr().String(), Rate: 100}).Run(t.Context(), 30*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int{"refused": 3}, load.Failures); diff != "" {
		t.Error(diff)
	}
}

func TestMeterStopsAndFinishesWhatItStarted(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	m := &Meter{URL: s.URL, Rate: 1000}
	go func() {
		for m.Snapshot().Requests < 10 {
			<-time.After(time.Millisecond)
		}
		cancel()
	}()
	load, err := m.Run(ctx, 0)
	if err != nil || load.Requests < 10 || load.Failed != 0 || load.Pending != 0 {
		t.Errorf("stopped meter: %+v, %v", load, err)
	}
}

func TestMeterRefusesNonsense(t *testing.T) {
	for _, m := range []*Meter{{URL: "http://x/", Rate: 0}, {URL: "http://x/", Rate: -1}, {URL: "http://x/", Rate: 1e9}, {URL: "http://[", Rate: 1}} {
		if _, err := m.Run(t.Context(), time.Second); err == nil {
			t.Errorf("ran with rate %g and URL %q", m.Rate, m.URL)
		}
	}
}

func TestQuantile(t *testing.T) {
	var ten []time.Duration
	for i := range 10 {
		ten = append(ten, time.Duration(i+1))
	}
	for _, test := range []struct {
		sorted  []time.Duration
		percent int
		want    time.Duration
	}{{ten, 50, 5}, {ten, 95, 10}, {ten, 99, 10}, {ten, 10, 1}, {ten[:1], 50, 1}, {ten[:2], 50, 1}, {ten[:3], 50, 2}} {
		if got := quantile(test.sorted, test.percent); got != test.want {
			t.Errorf("%d%% of %v = %d, want %d", test.percent, test.sorted, got, test.want)
		}
	}
}
