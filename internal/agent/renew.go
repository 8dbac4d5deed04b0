package agent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"afloat/internal/wire"

	"github.com/nats-io/nkeys"
)

const (
	renewRetryMin = 10 * time.Second
	renewRetryMax = time.Hour
)

// renewLoop gets a new JWT when two thirds of the present one's life are over,
// or when the server turns the present one down.
func (l *link) renewLoop(ctx context.Context) {
	pause := renewRetryMin
	for {
		timer := time.NewTimer(renewAt(l.identity(), time.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.refused:
			timer.Stop()
		case <-timer.C:
		}
		err := l.renew(ctx)
		if err == nil {
			pause = renewRetryMin
			continue
		}
		if ctx.Err() == nil {
			l.log.Warn("identity not renewed", "err", err, "again", pause)
		}
		if sleep(ctx, pause) != nil {
			return
		}
		pause = min(2*pause, renewRetryMax)
	}
}

// renewAt is how long to wait from now.
func renewAt(id Identity, now time.Time) time.Duration {
	life := id.Expires.Sub(id.Issued)
	if life <= 0 { // this host's clock is far off: the server will say when it is time
		return renewRetryMax
	}
	return max(0, id.Issued.Add(life*2/3).Sub(now))
}

// renew proves with the host's key that it is still the host.
func (l *link) renew(ctx context.Context) error {
	id := l.identity()
	pair, err := nkeys.FromSeed([]byte(id.Seed))
	if err != nil {
		return fmt.Errorf("renew identity: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return fmt.Errorf("renew identity: %w", err)
	}
	var nonce wire.Nonce
	if err := l.web.exchange(ctx, http.MethodGet, wire.PathNonce, nil, &nonce); err != nil {
		return fmt.Errorf("renew identity: %w", err)
	}
	skew := skewText(time.Since(nonce.Now))
	sig, err := pair.Sign(wire.RenewBytes(id.Host, public, nonce.Nonce))
	if err != nil {
		return fmt.Errorf("renew identity: %w", err)
	}
	var reply wire.RenewReply
	err = l.web.post(ctx, wire.PathRenew, wire.RenewRequest{
		Version: wire.Version, Host: id.Host, NKey: public, Nonce: nonce.Nonce, Sig: sig}, &reply)
	switch {
	case err != nil && skew != "":
		return fmt.Errorf("renew identity: %w (%s)", err, skew)
	case err != nil:
		return fmt.Errorf("renew identity: %w", err)
	case reply.Version != wire.Version || reply.JWT == "":
		return fmt.Errorf("renew identity: the server's reply is incomplete")
	}
	id.JWT, id.Issued, id.Expires = reply.JWT, time.Now().UTC(), reply.Expires
	if err := id.Store(l.dir); err != nil {
		return fmt.Errorf("renew identity: %w", err)
	}
	l.mu.Lock()
	l.id = id
	l.mu.Unlock()
	l.log.Info("identity renewed", "expires", id.Expires)
	return nil
}
