// Package control turns what is known about a fleet into what its hosts are
// told. It is pure: server, dry run, simulator and tests run it alike, and the
// caller does everything that touches the world.
//
// A State is durable and made of Records alone. A View is soft: who is
// enrolled, what each host said last, what the catalog holds. The caller owns
// both, in one goroutine.
//
// The caller's duties, in this order:
//
//  1. Rebuild: Restore the newest snapshot (or New), Apply every later record
//     of the log. Fill a View with Enrol (labels and mode as the server knows
//     them), Report and Bundle from the store; then Listen, as none of the
//     hosts has been heard yet. The same when the caller was stopped for long.
//  2. Feed: Report and Heard as hosts speak, reports in order; Enrol and Forget
//     as hosts come and go; Bundle when one is added or withdrawn (a withdrawal
//     reverts the rollouts that used it).
//  3. Decide: call Decide(state, view, now) when something was fed, and at
//     least once a second: soaks, silence and holds run out by themselves. For
//     an operator's command call Do instead; its record names the rollout, its
//     error (*RefusedError, *policy.Error) goes to the operator and the audit.
//  4. Append the record, unless it is Empty, to the log with the expected last
//     sequence and the leader's epoch. If the store does not acknowledge it,
//     do not apply it: hold, read the log again, and rebuild if it moved.
//  5. Apply the acknowledged record. Go back to 3 until the record is empty:
//     each record holds one kind of thing, so one event may take a few.
//  6. Audit what the record says.
//  7. Nudge record.Hosts(). Answer each host that asks with Desired, completed
//     with epoch, mode and withdrawn digests, and signed; and with a Permit for
//     Desired.Rollout while Permits says so. Never sign what is not applied.
//  8. Snapshot every 1,000 records.
//
// What a host is told only changes with its generation, which only grows, also
// when it goes back. A host that no rollout has taken stays as it is; one that
// ran a live patch or a generation that the State does not know is adopted.
//
// A wave of a live rollout is admitted in five batches, each when every host of
// the one before was heard from a minute after it got the patch, or counts as
// lost: how many hosts a bad patch reaches is decided there.
//
// Hosts settle in the order: admitted (told), applying, soaking (reports it
// applied), done (its wave is over). A rollout with all waves over is complete
// and stays open for hosts that come later, until it is aborted, reverted or a
// newer one takes its hosts. A crash counts against the rollout whose bundle
// was loaded when it happened.
package control
