package sim

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"afloat/internal/control"
)

// TestShardsDoNotMatter: a run is the same however the fleet is split and on
// however many cores it is played.
func TestShardsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := schedule(rapid.Uint64Range(1, 1<<40).Draw(t, "seed"))
		o.Check = false
		whole, err := Run(o)
		if _, refused := errors.AsType[*control.RefusedError](err); refused {
			t.Skip("no host can do it")
		}
		if err != nil {
			t.Fatal(err)
		}
		o.shardSize = rapid.IntRange(1, 20).Draw(t, "hosts per shard")
		split, err := Run(o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(whole, split, cmpopts.IgnoreUnexported(Result{})); diff != "" {
			t.Errorf("-whole +split:\n%s", diff)
		}
	})
}

// TestQueueIsInOrder: events come by time, and those of one time as they were pushed.
func TestQueueIsInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		for i, at := range rapid.SliceOf(rapid.IntRange(0, 5)).Draw(t, "times") {
			q.push(event{at: time.Duration(at), host: int32(i)})
		}
		for last := (event{host: -1}); ; {
			if _, ok := q.next(); !ok {
				return
			}
			e := q.pop()
			if e.at < last.at || e.at == last.at && e.host < last.host {
				t.Fatalf("%d of host %d after %d of host %d", e.at, e.host, last.at, last.host)
			}
			last = e
		}
	})
}
