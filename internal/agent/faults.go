package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"afloat/internal/converge"
	"afloat/internal/crash"
	"afloat/internal/wire"
)

// faultQuiet is how long the kernel log must be silent for a fault without an
// end mark to be complete.
const faultQuiet = time.Second

// followLog turns the kernel log into faults.
func (a *Agent) followLog(ctx context.Context) {
	if a.o.Crash == nil {
		return
	}
	lines := make(chan crash.Line)
	var source sync.WaitGroup
	source.Go(func() {
		defer close(lines)
		for ctx.Err() == nil {
			a.follow(ctx, lines)
		}
	})
	defer source.Wait()
	var parser crash.Parser
	quiet := time.NewTimer(faultQuiet)
	defer quiet.Stop()
	for {
		var f *crash.Fault
		select {
		case l, ok := <-lines:
			if !ok {
				return
			}
			quiet.Reset(faultQuiet)
			f = parser.Add(l)
		case <-quiet.C:
			f = parser.Flush()
		}
		if f != nil {
			a.fault(ctx, *f)
		}
	}
}

// followAgain is how long to wait before the kernel log is opened again.
const followAgain = 10 * time.Second

// follow reads the kernel log until ctx ends or it cannot be read; then the
// agent is blind for a while, and says so.
func (a *Agent) follow(ctx context.Context, lines chan<- crash.Line) {
	err := a.o.Crash.Follow(ctx, func(l crash.Line) {
		a.blind.Store(nil)
		select {
		case lines <- l:
		case <-ctx.Done():
		}
	})
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		err = errors.New("the kernel log ended")
	}
	a.o.Log.Error("kernel log not followed: crash evidence in it goes unseen", "err", err)
	a.blind.Store(new(err.Error()))
	_ = sleep(ctx, followAgain) // an error means that ctx has ended, which the caller sees
}

func (a *Agent) fault(ctx context.Context, f crash.Fault) {
	select {
	case a.faults <- f:
	case <-ctx.Done():
	}
}

// crash journals crash evidence under the live patch that was loaded then.
func (a *Agent) crash(ctx context.Context, f crash.Fault) {
	boot, err := a.o.Machine.Boot()
	if err == nil {
		err = a.host.journal.do(ctx, func(t *tx) error {
			j := t.state()
			if j.Boot != boot {
				return errors.New("the journal has not seen this boot yet")
			}
			c := &wire.Crash{
				ID: fmt.Sprintf("%s-%s-%s", f.Kind, boot, f.Signature), Kind: f.Kind, Boot: boot,
				Live: j.LiveAt(f.Since), Signature: f.Signature, Text: f.Text,
			}
			if j.Knows(c.ID) {
				return nil
			}
			a.o.Log.Warn("crash evidence", "kind", c.Kind, "signature", c.Signature, "bundle", c.Live.Short())
			return t.append(converge.Record{Kind: converge.RecordCrash, Boot: boot, Crash: c})
		})
	}
	if err != nil {
		a.o.Log.Error("crash evidence not journalled", "kind", f.Kind, "signature", f.Signature, "err", err)
	}
}
