package sim

import (
	"time"

	"afloat/internal/bundle"
	"afloat/internal/control"
	"afloat/internal/wire"
)

// kinds of events.
type kind uint8

const (
	evWake   kind = iota // the agent asked to be woken
	evAsk                // the host asks for its orders
	evReport             // a report arrives
	evDie                // the host dies, if it still runs what killed it
	evOops               // the host prints an oops, if it still runs what did it
	evBack               // a boot ends
	evActed              // an exchange or a restart ends
	evChance             // a healthy host crashes
	evHour               // the load of services changes
	evFault              // a timed fault begins
	evEnd                // a timed fault ends
	evOrder              // an operator's command
)

type event struct {
	at     time.Duration
	seq    uint64
	kind   kind
	host   int32
	report *wire.Report
	digest bundle.Digest
	fault  int
	verb   control.Verb
}

func (a *event) less(b *event) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

// queue is events by time, those of the same time in the order they came.
type queue struct {
	events []event // a heap
	nth    uint64
}

// push adds an event; pop takes the earliest.
func (q *queue) push(e event) {
	q.nth++
	e.seq = q.nth
	q.events = append(q.events, e)
	for i := len(q.events) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.events[i].less(&q.events[up]) {
			return
		}
		q.events[i], q.events[up] = q.events[up], q.events[i]
		i = up
	}
}

// next is when the earliest event is due, false if there is none.
func (q *queue) next() (time.Duration, bool) {
	if len(q.events) == 0 {
		return 0, false
	}
	return q.events[0].at, true
}

// due says whether there is an event at or before the time.
func (q *queue) due(by time.Duration) bool { return len(q.events) > 0 && q.events[0].at <= by }

func (q *queue) pop() event {
	top, last := q.events[0], len(q.events)-1
	moved := q.events[last]
	q.events[last] = event{}
	q.events = q.events[:last]
	for i := 0; i < last; {
		least := 2*i + 1
		if least+1 < last && q.events[least+1].less(&q.events[least]) {
			least++
		}
		if least >= last || !q.events[least].less(&moved) {
			q.events[i] = moved
			break
		}
		q.events[i] = q.events[least]
		i = least
	}
	return top
}
