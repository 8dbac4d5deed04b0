package boot

import (
	"os"
	"strings"
	"testing"
)

func TestThisMachine(t *testing.T) {
	id, err := ID()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ID(); err != nil || again != id {
		t.Errorf("boot id changed from %s to %s, %v", id, again, err)
	}
	before, err := Uptime()
	if err != nil {
		t.Fatal(err)
	}
	after, err := Uptime()
	if err != nil || after < before || before <= 0 {
		t.Errorf("uptime went from %v to %v, %v", before, after, err)
	}
	k, err := Kernel()
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != strings.TrimSpace(string(release)) || len(k.BuildID) != 40 {
		t.Errorf("kernel is %+v", k)
	}
}
