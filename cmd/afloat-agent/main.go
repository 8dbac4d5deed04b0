// Command afloat-agent is the small daemon on each host.
package main

import (
	"os"

	"afloat/internal/agent"
	"afloat/internal/agent/agentcmd"
	"afloat/internal/boot"
	"afloat/internal/crash"
	"afloat/internal/livepatch"
)

func main() { os.Exit(agentcmd.Main(thisHost, os.Args[1:])) }

func thisHost() (agent.Kernel, agent.Machine, agent.CrashSource, error) {
	k, err := livepatch.Open()
	return k, boot.Machine{}, crash.Kmsg{Path: "/dev/kmsg"}, err
}
