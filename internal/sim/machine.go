package sim

import (
	"slices"
	"time"

	"afloat/internal/bundle"
	"afloat/internal/converge"
	"afloat/internal/policy"
	"afloat/internal/wire"
)

// machine is what ordered actions change of a virtual host. A host that is
// never ordered to act has none.
type machine struct {
	image   string
	made    converge.Made
	drained time.Duration // when it is out of rotation, 0 if nobody asked, never if the drain is stuck
	probes  time.Duration // when they have ended, 0 if not begun
	sick    bool          // and they fail
	warm    time.Duration // that it takes to be at full strength
	acting  *converge.Action
	acts    map[string]bool // nonces acted on
	next    string          // kernel that this boot ends in, "" for the default
	last    string          // module exchanged or unit restarted last
	owner   bool            // its owner has taken it out of rotation
	sent    bool            // into the boot that it is in, by order
}

// never is when what is stuck is over.
const never = forever

// about is a time of the host's class, shorter or longer by its spread.
func (h *host) about(s *shard, d time.Duration) time.Duration {
	if spread := h.group.takes.spread; spread > 0 {
		return time.Duration(float64(d) * (1 + spread*(2*s.random(h)-1)))
	}
	return d
}

// out says that no work reaches the host, by order.
func (h *host) out(now time.Duration) bool {
	return h.m != nil && (h.m.owner || h.m.drained != 0 && h.m.drained <= now)
}

// serves says that the host is up, in rotation, and at full strength.
func (h *host) serves() bool {
	leaving := h.m != nil && (h.m.drained != 0 || h.m.owner)
	return !h.down && !h.gone && !h.away && !leaving && h.last.Phase != wire.PhaseWarming
}

// account keeps the shard's count of hosts that are out of service.
func (h *host) account(s *shard) {
	if out := !h.serves(); out != h.idle {
		h.idle = out
		if out {
			s.idle++
		} else {
			s.idle--
		}
	}
}

// outByOrder says that the host is out of service because it was told to be.
func (h *host) outByOrder() bool {
	if h.m == nil || h.gone || h.away || h.m.owner {
		return false
	}
	if h.down {
		return h.m.sent
	}
	return h.m.drained != 0 || h.last.Phase == wire.PhaseWarming
}

// observeMachine adds what ordered actions are about.
func (h *host) observeMachine(o *converge.Observed, now time.Duration) {
	o.Abilities, o.Hot, o.Default, o.Image = h.group.able, h.group.Hot, h.standard, h.group.Image
	m := h.m
	if m == nil {
		return
	}
	o.Out, o.Made, o.Limits.Warm = h.out(now), m.made, m.warm
	if m.owner {
		o.OutBy = "its owner"
	}
	if m.image != "" {
		o.Image = m.image
	}
	if m.probes != 0 && now >= m.probes {
		o.Probes.Known = true
		if m.sick {
			o.Probes.Failed = "the simulated service does not answer"
		}
	}
}

// ordered does what an ordered action asks of the world. It says whether to go
// on at once.
func (h *host) ordered(s *shard, a converge.Action, now time.Duration) bool {
	if h.m == nil {
		h.m = &machine{}
	}
	m := h.m
	switch a.Kind {
	case converge.Leave:
		return h.leave(s, now)
	case converge.Perform:
		h.perform(s, a, now)
		return false
	case converge.Probe:
		if m.probes == 0 {
			m.probes = now + h.about(s, h.group.takes.verify)
			m.sick = s.hit("probe-fails", h)
			s.schedule(m.probes, h, evWake)
		}
		return now >= m.probes
	case converge.Commit:
		h.standard = a.Object
	case converge.Enter:
		m.drained = 0
		m.warm = h.about(s, h.group.takes.warm)
	}
	return true
}

// leave begins a drain, if none is under way. The host asks for its orders when
// it is over: the permit may have lapsed by then.
func (h *host) leave(s *shard, now time.Duration) bool {
	m := h.m
	if m.drained == 0 {
		m.probes = 0
		m.drained = now + h.about(s, h.group.takes.drain)
		if s.hit("stuck-drain", h) {
			m.drained = never
		}
		m.drained = max(m.drained, 1)
		if m.drained > now && m.drained != never {
			s.schedule(m.drained, h, evAsk)
		}
	}
	return m.drained <= now
}

// byOwner takes the host out of rotation by its owner's hand, or back in.
func (h *host) byOwner(s *shard, out bool, now time.Duration) {
	if h.m == nil {
		h.m = &machine{}
	}
	h.m.owner = out
	if !h.down && !h.gone && !h.away {
		h.run(s, now)
	}
}

// see lets the host see its crash evidence, or not.
func (h *host) see(s *shard, sees bool, now time.Duration) {
	if h.blind = ""; !sees {
		h.blind = "the kernel log cannot be read"
	}
	if !h.down && !h.gone && !h.away {
		h.run(s, now)
	}
}

// perform carries out an ordered action.
func (h *host) perform(s *shard, a converge.Action, now time.Duration) {
	m := h.m
	if m.acts[a.Nonce] {
		s.fail("host %s: acted twice on nonce %s: %s %s", h.id, a.Nonce, a.Does, a.Object)
	}
	hot := a.Does == wire.ActionModule && slices.Contains(h.group.Hot, a.Object)
	if !h.out(now) && !hot {
		s.fail("host %s: %s %s in rotation", h.id, a.Does, a.Object)
	}
	if m.acts == nil {
		m.acts = map[string]bool{}
	}
	m.acts[a.Nonce], m.probes, m.sent = true, 0, a.Does == wire.ActionReboot || a.Does == wire.ActionReplace
	h.tell(s, now)
	switch a.Does {
	case wire.ActionReboot:
		m.next = a.Object
		if a.Object == "" {
			m.next = h.kernel.Release
		}
		if m.next != h.kernel.Release && s.hit("boots-old-kernel", h) {
			m.next = h.standard
		}
		h.goDown(s, now, h.about(s, h.group.takes.boot))
	case wire.ActionReplace:
		h.remake(a)
		h.goDown(s, now, h.about(s, h.group.takes.replace))
	default:
		m.acting = &a
		s.schedule(now+max(1, h.about(s, h.group.takes.act)), h, evActed)
	}
}

// remake is the provisioner's work: another machine with an empty disk.
func (h *host) remake(a converge.Action) {
	h.m.made = converge.Made{Nonce: a.Nonce, Generation: h.j.Desired.Generation}
	h.m.image, h.standard = a.Object, h.group.id.Release
	h.j, h.have, h.loads = converge.Journal{}, nil, nil
}

// acted is the end of an exchange or a restart.
func (h *host) acted(s *shard, now time.Duration) {
	if h.down || h.gone || h.m == nil || h.m.acting == nil {
		return
	}
	a := *h.m.acting
	h.m.acting, h.m.last = nil, a.Object
	r := converge.Acted(a, h.observe(s, now), nil)
	r.Time, r.Uptime = s.at(now), h.clock(now)
	h.write(s, r)
	s.reached(h, now)
	h.run(s, now)
}

// goDown ends the boot for a time, or for good.
func (h *host) goDown(s *shard, now, takes time.Duration) {
	aim := s.w.blame().read.Target
	broken := s.w.blamed != "" && h.runs(s.w.blamed) || h.m != nil && aim.Action == policy.Kernel && h.m.next == aim.Name
	h.down, h.patches, h.modules, h.permit, h.offered = true, nil, nil, nil, nil
	if h.m != nil {
		h.m.acting, h.m.probes = nil, 0
	}
	h.account(s)
	s.silent(h, now)
	if h.gone = s.random(h) < s.chance("never-returns", h); !h.gone && broken && s.hit("breaks-next-boot", h) {
		h.gone = true
		s.crashes++
	}
	if h.gone {
		return
	}
	s.schedule(now+takes, h, evBack)
}

// bootKernel is the kernel that a boot ends in.
func (h *host) bootKernel() string {
	release := h.standard
	if h.m != nil && h.m.next != "" {
		release, h.m.next = h.m.next, ""
	}
	return release
}

// onTarget says that the host is up and has what a policy is about.
func (h *host) onTarget(o *ordered) bool {
	if h.down || h.gone || h.away {
		return false
	}
	switch o.read.Target.Action {
	case policy.Live:
		return h.runs(o.digest)
	case policy.Kernel:
		return h.kernel.Named(o.read.Target.Name) || o.read.Target.Name == "" && h.j.Did != ""
	case policy.Replace:
		return h.m != nil && h.m.image == o.read.Target.Name
	}
	return h.m != nil && h.m.last == o.read.Target.Name
}

// has says that the host runs the bundle, or is on the target that is to blame
// if it is "".
func (h *host) has(w *world, d bundle.Digest) bool {
	if d == "" {
		return h.onTarget(w.blame())
	}
	return h.runs(d)
}
