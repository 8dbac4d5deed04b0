package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"afloat/internal/api"
	"afloat/internal/audit"
	"afloat/internal/bundle"
	"afloat/internal/enrol"
	"afloat/internal/fleet"
	"afloat/internal/server"
	"afloat/internal/wire"
)

// Role is what an operator may do; each holds all that the ones before it hold.
type Role int

const (
	Viewer   Role = iota // look at everything
	Operator             // run rollouts, add and withdraw bundles
	Admin                // let hosts in and out, raise their mode
)

// String is the role's name.
func (r Role) String() string { return [...]string{"viewer", "operator", "admin"}[r] }

// ParseRole reads what String wrote.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{Viewer, Operator, Admin} {
		if r.String() == s {
			return r, nil
		}
	}
	return Viewer, fmt.Errorf("role %q: viewer, operator or admin", s)
}

// Roles says which uid has which role. Root and the server's own uid are
// admins; whoever else can open the socket is a viewer unless named.
type Roles map[uint32]Role

func (r Roles) of(uid uint32) Role {
	if uid == 0 || uid == uint32(os.Getuid()) {
		return Admin
	}
	return r[uid]
}

// Operators is the handler of the local socket. Serve it with ConnContext set
// to PeerContext.
func Operators(s *server.Server, roles Roles, log *slog.Logger) http.Handler {
	o := &operators{server: s, roles: roles, log: log}
	mux := http.NewServeMux()
	for _, r := range o.routes() {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { o.serve(w, req, r) })
	}
	return mux
}

type operators struct {
	server *server.Server
	roles  Roles
	log    *slog.Logger
}

// route is one thing an operator can ask for, and the role that it takes.
type route struct {
	pattern string
	role    Role
	handle  func(r *http.Request, who audit.Actor) (any, error)
}

func (o *operators) routes() []route {
	return []route{
		{"GET " + api.PathStatus, Viewer, o.status},
		{"GET " + api.PathHosts, Viewer, o.hosts},
		{"POST " + api.PathHostMode, Admin, o.hostMode},
		{"POST " + api.PathHostRevoke, Admin, o.hostRevoke},
		{"POST " + api.PathHostRelease, Operator, o.hostRelease},
		{"GET " + api.PathDebts, Viewer, o.debts},
		{"GET " + api.PathTook, Viewer, o.took},
		{"GET " + api.PathTokens, Viewer, o.tokens},
		{"POST " + api.PathTokens, Admin, o.newToken},
		{"POST " + api.PathTokenRevoke, Admin, o.tokenRevoke},
		{"GET " + api.PathBundles, Viewer, o.bundles},
		{"POST " + api.PathBundles, Operator, o.addBundle},
		{"POST " + api.PathWithdraw, Operator, o.withdraw},
		{"GET " + api.PathAudit, Viewer, o.audit},
		{"GET " + api.PathExplain, Viewer, o.explain},
		{"GET " + api.PathRollouts, Viewer, o.rollouts},
		{"GET " + api.PathRollout, Viewer, o.rollout},
		{"POST " + api.PathRollouts, Operator, o.start},
		{"POST " + api.PathRolloutDo, Operator, o.do},
	}
}

func (o *operators) serve(w http.ResponseWriter, req *http.Request, r route) {
	uid, ok := req.Context().Value(peerKey{}).(uint32)
	if !ok {
		writeJSON(w, http.StatusForbidden, api.Error{Error: "cannot tell who is calling"})
		return
	}
	role := o.roles.of(uid)
	who := audit.Actor{Kind: audit.ActorOperator, Name: userName(uid), Role: role.String(), UID: &uid}
	if role < r.role {
		reason := fmt.Sprintf("this takes the role %s; uid %d is %s", r.role, uid, role)
		o.server.Refuse(req.Context(), who, "api.call", r.pattern, reason)
		writeJSON(w, http.StatusForbidden, api.Error{Error: reason, Hint: "an admin can name your uid in the server's --roles file"})
		return
	}
	v, err := r.handle(req, who)
	if bad, ok := errors.AsType[*badRequest](err); ok {
		writeJSON(w, http.StatusBadRequest, api.Error{Error: bad.Error()})
		return
	}
	respond(w, o.log, v, err)
}

// badRequest is a request that cannot be read.
type badRequest struct{ err error }

func (e *badRequest) Error() string { return "cannot read request: " + e.err.Error() }

func body[T any](r *http.Request) (T, error) {
	var v T
	data, err := io.ReadAll(io.LimitReader(r.Body, wire.MaxMessage+1))
	if err == nil {
		err = wire.Decode(data, &v)
	}
	if err != nil {
		return v, &badRequest{err}
	}
	return v, nil
}

func (o *operators) status(r *http.Request, _ audit.Actor) (any, error) {
	s, err := o.server.Status(r.Context())
	if err != nil {
		return nil, err
	}
	return api.Status{Version: s.Version, Epoch: s.Epoch, CAHash: s.CAHash, HTTPS: s.HTTPS, NATS: s.NATS,
		Hosts: s.Hosts, Connected: s.Connected, Held: s.Held}, nil
}

func (o *operators) hosts(r *http.Request, _ audit.Actor) (any, error) {
	sel, err := fleet.ParseSelector(r.URL.Query().Get("select"))
	if err != nil {
		return nil, &badRequest{err}
	}
	views, err := o.server.Hosts(r.Context(), sel)
	if err != nil {
		return nil, err
	}
	out := make([]api.Host, len(views))
	for i, v := range views {
		out[i] = hostOf(v, time.Now())
	}
	return out, nil
}

func hostOf(v server.HostView, now time.Time) api.Host {
	h := api.Host{ID: v.Registration.Host, Name: v.Registration.Name, Labels: v.Labels, Mode: v.Registration.Mode,
		Joined: v.Registration.Joined, Seen: v.Seen, Silent: now.Sub(v.Seen) > server.Silent}
	if !v.Told.IsZero() {
		h.Report = &v.Report
	}
	return h
}

func (o *operators) hostMode(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.HostMode](r)
	if err != nil {
		return nil, err
	}
	sel, err := fleet.ParseSelector(req.Select)
	if err != nil {
		return nil, &badRequest{err}
	}
	ids, err := o.server.SetMode(r.Context(), who, sel, req.Mode)
	return api.Changed{Hosts: ids}, err
}

func (o *operators) hostRevoke(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.Named](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, o.server.RevokeHost(r.Context(), who, req.ID, req.Reason)
}

func (o *operators) hostRelease(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.Named](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, o.server.Release(r.Context(), who, req.ID, req.Reason)
}

func (o *operators) tokens(r *http.Request, _ audit.Actor) (any, error) {
	tokens, err := o.server.Tokens(r.Context())
	if err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]api.Token, len(tokens))
	for i, t := range tokens {
		out[i] = api.Token{ID: t.ID, State: t.State(now), Created: t.Created, Expires: t.Expires, Uses: t.Uses,
			Mode: t.Mode, Labels: t.Labels, By: t.By, Hosts: []fleet.HostID{}}
		for _, reg := range t.Redeemed {
			out[i].Hosts = append(out[i].Hosts, reg.Host)
		}
	}
	return out, nil
}

func (o *operators) newToken(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.NewToken](r)
	if err != nil {
		return nil, err
	}
	token, record, err := o.server.NewToken(r.Context(), who, enrol.TokenOptions{
		TTL: time.Duration(req.TTLSeconds) * time.Second, Uses: req.Uses, Mode: req.Mode, Labels: req.Labels})
	if err != nil {
		return nil, err
	}
	made := api.TokenMade{ID: record.ID, Token: token.String(), Expires: record.Expires, Server: o.server.URL()}
	made.Join = JoinCommand(made.Server, made.Token)
	return made, nil
}

// JoinCommand is what a person types on a host. The publisher's key is not the
// server's to give out, so its place is left to fill in.
func JoinCommand(url, token string) string {
	return fmt.Sprintf("afloat-agent join --server %s --token %s --publisher-key PUBLISHER.pub", url, token)
}

func (o *operators) tokenRevoke(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.Named](r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, o.server.RevokeToken(r.Context(), who, req.ID)
}

func (o *operators) bundles(r *http.Request, _ audit.Actor) (any, error) {
	entries, err := o.server.Bundles(r.Context())
	if err != nil {
		return nil, err
	}
	out := make([]api.Bundle, len(entries))
	for i, e := range entries {
		out[i] = api.Bundle{Digest: e.Digest, State: string(e.State), Size: e.Size, Signer: e.Signer, Added: e.Added,
			By: e.By, Withdrawn: e.Withdrawn, Reason: e.Reason, Manifest: e.Manifest}
	}
	return out, nil
}

// addBundle takes the file itself as the request's body.
func (o *operators) addBundle(r *http.Request, who audit.Actor) (any, error) {
	const limit = bundle.MaxManifest + bundle.MaxPayload + 4096
	file, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, &badRequest{err}
	}
	if len(file) > limit {
		return nil, &badRequest{fmt.Errorf("the file has more than %d bytes", limit)}
	}
	e, err := o.server.AddBundle(r.Context(), who, file)
	return api.Bundle{Digest: e.Digest, State: string(e.State), Size: e.Size, Signer: e.Signer, Added: e.Added,
		By: e.By, Manifest: e.Manifest}, err
}

func (o *operators) withdraw(r *http.Request, who audit.Actor) (any, error) {
	req, err := body[api.Named](r)
	if err != nil {
		return nil, err
	}
	e, err := o.server.Withdraw(r.Context(), who, req.ID, req.Reason)
	return api.Bundle{Digest: e.Digest, State: string(e.State), Size: e.Size, Signer: e.Signer, Added: e.Added,
		By: e.By, Withdrawn: e.Withdrawn, Reason: e.Reason, Manifest: e.Manifest}, err
}

// auditPage is how many records one answer holds.
const auditPage = 500

func (o *operators) audit(r *http.Request, _ audit.Actor) (any, error) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		return nil, &badRequest{fmt.Errorf("after: %w", err)}
	}
	records, err := o.server.Audit(r.Context(), after, auditPage)
	return api.AuditPage{Records: records}, err
}

type peerKey struct{}

// PeerContext puts the peer's uid, as the kernel tells it (SO_PEERCRED,
// unix(7)), into the context of every request of a connection.
func PeerContext(ctx context.Context, c net.Conn) context.Context {
	uid, err := peerUID(c)
	if err != nil {
		return ctx // serve refuses a caller without a uid
	}
	return context.WithValue(ctx, peerKey{}, uid)
}

func peerUID(c net.Conn) (uint32, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T has no peer credentials", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("read peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, fmt.Errorf("read peer credentials: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("read peer credentials: %w", credErr)
	}
	return cred.Uid, nil
}

// userName is the name behind a uid, or the number.
func userName(uid uint32) string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		return u.Username
	}
	return strconv.FormatUint(uint64(uid), 10)
}
