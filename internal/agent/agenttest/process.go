package agenttest

import (
	"context"
	"os"
	"os/exec"

	"afloat/internal/agent"
	"afloat/internal/agent/agentcmd"
)

// kernelVariable names the folder of the pretended kernel in a process that is an agent.
const kernelVariable = "AFLOAT_TEST_KERNEL"

// Main is for TestMain: in a process that Command started it is an afloat-agent
// on a pretended kernel and does not return; elsewhere it does nothing.
func Main() {
	dir := os.Getenv(kernelVariable)
	if dir == "" {
		return
	}
	os.Exit(agentcmd.Main(func() (agent.Kernel, agent.Machine, agent.CrashSource, error) {
		k, err := NewKernel(dir)
		return k, k, k, err
	}, os.Args[1:]))
}

// Command is `afloat-agent args...` on the pretended kernel in a folder, as a
// process of its own that may be killed. The test's TestMain must call Main.
func Command(ctx context.Context, kernel string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), kernelVariable+"="+kernel)
	return cmd
}
