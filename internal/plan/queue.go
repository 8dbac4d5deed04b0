package plan

import (
	"cmp"
	"slices"
	"time"
)

// entry is a host in a queue. It is void when the host has left that queue.
type entry struct {
	order uint64
	host  int32
	rank  uint32 // comes before the order
}

func (a entry) less(b entry) bool { return a.compare(b) < 0 }

func (a entry) compare(b entry) int {
	switch {
	case a.rank != b.rank:
		return cmp.Compare(a.rank, b.rank)
	case a.order != b.order:
		return cmp.Compare(a.order, b.order)
	}
	return cmp.Compare(a.host, b.host)
}

// queue gives back entries in order. What comes in before the first pop is
// sorted at once; what comes later goes through a heap.
type queue struct {
	sorted []entry // from head on
	head   int
	heap   []entry
	ripe   bool // sorted is in order
}

func (q *queue) push(e entry) {
	if !q.ripe {
		q.sorted = append(q.sorted, e)
		return
	}
	q.heap = append(q.heap, e)
	for i := len(q.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.heap[i].less(q.heap[up]) {
			return
		}
		q.heap[i], q.heap[up] = q.heap[up], q.heap[i]
		i = up
	}
}

// peek is the first entry, and false if there is none.
func (q *queue) peek() (entry, bool) {
	if !q.ripe {
		slices.SortFunc(q.sorted, entry.compare)
		q.ripe = true
	}
	switch {
	case q.head < len(q.sorted) && (len(q.heap) == 0 || q.sorted[q.head].less(q.heap[0])):
		return q.sorted[q.head], true
	case len(q.heap) > 0:
		return q.heap[0], true
	}
	return entry{}, false
}

// pop removes what peek has shown.
func (q *queue) pop() {
	if q.head < len(q.sorted) && (len(q.heap) == 0 || q.sorted[q.head].less(q.heap[0])) {
		if q.head++; q.head == len(q.sorted) {
			q.sorted, q.head = q.sorted[:0], 0
		}
		return
	}
	last := len(q.heap) - 1
	q.heap[0] = q.heap[last]
	q.heap = q.heap[:last]
	for i := 0; ; {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && q.heap[c].less(q.heap[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		q.heap[i], q.heap[least] = q.heap[least], q.heap[i]
		i = least
	}
}

// gateHeap is the set of gates that may have room; its order does not matter,
// each turn builds a heap of their heads.
type gateHeap struct {
	gates []int32
	in    map[int32]bool
}

func (h *gateHeap) add(g int32) {
	if h.in == nil {
		h.in = map[int32]bool{}
	}
	if !h.in[g] {
		h.in[g] = true
		h.gates = append(h.gates, g)
	}
}

// timer is a group that may get room at a time, or a host that may start again.
type timer struct {
	at    int64
	group int32
	host  bool
}

type timerHeap []timer

func (h *timerHeap) add(t timer) {
	*h = append(*h, t)
	for i := len(*h) - 1; i > 0; {
		up := (i - 1) / 2
		if (*h)[up].at <= (*h)[i].at {
			return
		}
		(*h)[i], (*h)[up] = (*h)[up], (*h)[i]
		i = up
	}
}

func (h *timerHeap) pop() timer {
	old := *h
	top, last := old[0], len(old)-1
	old[0] = old[last]
	*h = old[:last]
	for i := 0; ; {
		least := i
		for _, c := range [2]int{2*i + 1, 2*i + 2} {
			if c < last && (*h)[c].at < (*h)[least].at {
				least = c
			}
		}
		if least == i {
			return top
		}
		(*h)[i], (*h)[least] = (*h)[least], (*h)[i]
		i = least
	}
}

// window counts events of the last span, oldest first.
type window struct {
	events []event
	n      int
}

type event struct {
	at int64
	n  int
}

func (w *window) add(at time.Time, n int) {
	w.n += n
	t := at.UnixNano()
	if last := len(w.events) - 1; last >= 0 && w.events[last].at >= t {
		// Told late: keep the order.
		i, _ := slices.BinarySearchFunc(w.events, t, func(e event, t int64) int { return cmp.Compare(e.at, t) })
		if i < len(w.events) && w.events[i].at == t {
			w.events[i].n += n
			return
		}
		w.events = slices.Insert(w.events, i, event{t, n})
		return
	}
	w.events = append(w.events, event{t, n})
}

// remove takes back one event of a time, if it still counts.
func (w *window) remove(at int64) {
	i, ok := slices.BinarySearchFunc(w.events, at, func(e event, t int64) int { return cmp.Compare(e.at, t) })
	if !ok {
		return
	}
	w.n--
	if w.events[i].n--; w.events[i].n == 0 {
		w.events = slices.Delete(w.events, i, i+1)
	}
}

// expire drops what is older than span, and says how many are left and when
// the oldest of them goes.
func (w *window) expire(now time.Time, span time.Duration) (n int, until int64) {
	limit := now.UnixNano() - int64(span)
	drop := 0
	for drop < len(w.events) && w.events[drop].at <= limit {
		w.n -= w.events[drop].n
		drop++
	}
	if drop > 0 {
		w.events = slices.Delete(w.events, 0, drop)
	}
	if len(w.events) == 0 {
		return 0, 0
	}
	return w.n, w.events[0].at + int64(span)
}
