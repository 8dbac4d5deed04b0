package store

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"afloat/internal/enrol"
)

// victimEnv makes the test binary a process that appends until it is killed.
const victimEnv = "AFLOAT_STORE_VICTIM"

// victim appends numbered entries and prints each sequence once it is acknowledged.
func victim(dir string) {
	root, err := os.OpenRoot(dir)
	check(err)
	identity, err := enrol.Load(root)
	check(err)
	e, err := Embed(EmbedConfig{Dir: dir + "/jetstream", Listen: "127.0.0.1:0", Identity: identity,
		TLS: identity.CA().TLS([]string{"127.0.0.1"}), Log: slog.New(slog.DiscardHandler)})
	check(err)
	nc, err := e.Connect()
	check(err)
	ctx := context.Background()
	s, err := Open(ctx, nc, Options{Replicas: 1, Bundles: root})
	check(err)
	lease, err := s.Lead(ctx, "victim", 10*time.Second)
	check(err)
	last, err := s.Events.Last(ctx)
	check(err)
	fmt.Println("epoch", lease.Epoch())
	for {
		last, err = s.Events.Append(ctx, last, fmt.Appendf(nil, "entry %d", last+1))
		check(err)
		fmt.Println("acked", last)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	var acked, epoch uint64
	for round := range 4 {
		acked, epoch = killAfter(t, dir, 20+13*round, acked, epoch)
	}
	r := newRig(t, dir)
	var replayed uint64
	err := r.store.Events.Replay(t.Context(), 0, func(seq uint64, data []byte) error {
		replayed = seq
		if want := fmt.Sprintf("entry %d", seq); string(data) != want {
			t.Errorf("entry %d is %q, want %q", seq, data, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if replayed < acked {
		t.Errorf("replayed %d entries, %d were acknowledged", replayed, acked)
	}
}

// killAfter runs the victim until it acknowledged n more entries, and kills it.
func killAfter(t *testing.T, dir string, n int, acked, epoch uint64) (uint64, uint64) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() // it was killed: its status says nothing
	lines := bufio.NewScanner(out)
	was := epoch
	for seen := 0; seen < n && lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "epoch %d", &epoch); err == nil {
			continue
		}
		var seq uint64
		if _, err := fmt.Sscanf(lines.Text(), "acked %d", &seq); err != nil {
			t.Fatalf("victim said %q", lines.Text())
		}
		if seq <= acked {
			t.Fatalf("sequence %d was given out twice", seq)
		}
		acked, seen = seq, seen+1
	}
	if epoch <= was {
		t.Errorf("epoch %d after %d", epoch, was)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what it still said before it died
		var seq uint64
		if _, err := fmt.Sscanf(lines.Text(), "acked %d", &seq); err == nil {
			acked = seq
		}
	}
	return acked, epoch
}
