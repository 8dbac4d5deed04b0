// Package guestwire is what the lab and the helper inside its guests say to
// each other over HTTP. The helper's control port is on a network card of its
// own, so that cutting a guest off from the fleet leaves the lab's hands free.
package guestwire

// Ports inside the guest.
const (
	WorkloadPort = 8000
	ControlPort  = 8001
)

// Gateway is the machine that the lab runs on, as its guests see it.
const Gateway = "10.0.2.2"

// Paths of the control endpoint.
const (
	PathStatus = "/status" // GET: Status
	PathExec   = "/exec"   // POST ExecRequest: ExecReply
	PathFile   = "/file"   // PUT ?path=P&mode=0644: the body becomes the file
)

// Status says who answers.
type Status struct {
	Host    string  `json:"host"`
	Release string  `json:"release"`
	BootID  string  `json:"boot_id"`
	Uptime  float64 `json:"uptime_seconds"`
}

// ExecRequest runs Argv in the guest as root. The command is killed when the
// request's connection ends.
type ExecRequest struct {
	Argv  []string `json:"argv"`
	Stdin []byte   `json:"stdin,omitempty"`
}

// ExecReply is a finished command. Error says why it did not start or how it
// ended when not by exit; Code is then -1.
type ExecReply struct {
	Stdout []byte `json:"stdout"`
	Stderr []byte `json:"stderr"`
	Code   int    `json:"code"`
	Error  string `json:"error,omitempty"`
}
