// Command bench-applier runs in a guest of the lab. It applies one live patch
// again and again, by turns through the agent's own code and bare: the system
// call, and reading sysfs until the transition is over. It prints the
// milliseconds of each as JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"afloat/internal/agent"
	"afloat/internal/boot"
	"afloat/internal/livepatch"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench-applier:", err)
		os.Exit(1)
	}
}

// applier holds both ways to apply the same module.
type applier struct {
	local  *agent.Local
	file   []byte // the bundle
	module string // path of the .ko inside it
	name   string
}

func run(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return errors.New("want BUNDLE MODULE.ko NAME ROUNDS")
	}
	rounds, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	k, err := livepatch.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	a := applier{module: args[1], name: args[2]}
	if a.file, err = os.ReadFile(args[0]); err != nil {
		return err
	}
	a.local = agent.NewLocal(agent.Options{
		Folder: agent.Folder{State: agent.DefaultState, Config: agent.DefaultConfig},
		Kernel: k, Machine: boot.Machine{}, Log: slog.New(slog.DiscardHandler),
	})
	took, err := a.rounds(ctx, rounds)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

type times struct {
	Agent []float64 `json:"agent_ms"`
	Bare  []float64 `json:"bare_ms"`
}

// rounds lets both begin each round at the same point of a second, another one
// in each round: the kernel looks at a transition once a second, so what comes
// right after one ended would always wait equally long.
func (a *applier) rounds(ctx context.Context, n int) (times, error) {
	var t times
	turns := []func(context.Context) error{
		func(ctx context.Context) error { return a.turn(ctx, &t.Agent, a.agent, a.agentOff) },
		func(ctx context.Context) error { return a.turn(ctx, &t.Bare, a.bare, a.bareOff) },
	}
	for i := range n {
		for j := range turns {
			_, phase := math.Modf(float64(i) * math.Phi)
			time.Sleep(time.Duration(phase * float64(time.Second)))
			if err := turns[(i+j)%2](ctx); err != nil {
				return t, fmt.Errorf("round %d: %w", i+1, err)
			}
		}
	}
	return t, nil
}

func (a *applier) turn(ctx context.Context, took *[]float64, on, off func(context.Context) error) error {
	start := time.Now()
	if err := on(ctx); err != nil {
		return err
	}
	*took = append(*took, float64(time.Since(start).Microseconds())/1000)
	return off(ctx)
}

func (a *applier) agent(ctx context.Context) error {
	_, err := a.local.Apply(ctx, a.file, nil)
	return err
}

func (a *applier) agentOff(ctx context.Context) error {
	_, err := a.local.Revert(ctx, nil)
	return err
}

func (a *applier) bare(context.Context) error {
	f, err := os.Open(a.module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return a.settled()
}

func (a *applier) bareOff(context.Context) error {
	if err := os.WriteFile(a.sysfs("enabled"), []byte("0"), 0); err != nil {
		return err
	}
	if err := a.settled(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return err
	}
	for {
		err := unix.DeleteModule(a.name, unix.O_NONBLOCK)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(poll)
	}
}

// poll is the interval at which the agent looks at a transition, too.
const poll = 15 * time.Millisecond

// settled returns when the live patch is in no transition.
func (a *applier) settled() error {
	for {
		text, err := os.ReadFile(a.sysfs("transition"))
		if err != nil || string(text) == "0\n" {
			return err
		}
		time.Sleep(poll)
	}
}

func (a *applier) sysfs(file string) string {
	return filepath.Join("/sys/kernel/livepatch", a.name, file)
}
