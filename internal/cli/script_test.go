package cli

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"afloat/internal/agent/agenttest"
	"afloat/internal/api"
	"afloat/internal/bundle"
	"afloat/internal/kernel"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"afloat": func() { os.Exit(Main()) },
		// The real agent on the pretended kernel in $AFLOAT_TEST_KERNEL.
		"afloat-agent": func() { agenttest.Main() },
	})
}

// TestScripts runs the real command line against real servers.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("AFLOAT_SOCKET", filepath.Join(e.WorkDir, "st", "afloat.sock"))
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, fmt.Errorf("condition %q is not known", cond)
			}
			return os.Getuid() == 0, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"answers": answers, "seal": seal, "setenvfrom": setEnvFrom, "ports": ports, "flip": flip, "as": as, "until": until, "moduleseal": moduleSeal, "host": host, "jsonenv": jsonEnv,
		},
	})
}

// answers waits until a server answers on the socket, or no longer does.
func answers(ts *testscript.TestScript, neg bool, _ []string) {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("unix", ts.Getenv("AFLOAT_SOCKET"))
		if err == nil {
			c.Close()
		}
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the server: %v", err)
		}
	}
}

// moduleseal KEY OUT NAME writes a bundle that the pretended kernel can load.
func moduleSeal(ts *testscript.TestScript, _ bool, args []string) {
	key, err := bundle.ParsePrivateKey([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	m := agenttest.Module{Name: args[2]}
	file, err := bundle.Seal(key, bundle.Manifest{Kind: bundle.KindLive, Name: args[2], Module: m.Name,
		Kernel: agenttest.DefaultID(), Replace: true, Created: time.Unix(0, 0).UTC()}, m.Bytes())
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), file, 0o644))
}

// host NAME lets a host with a pretended kernel join, and runs its agent until the script ends.
func host(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	run := func(name string, line ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], name), line...)
		cmd.Dir = ts.MkAbs(".")
		cmd.Env = append(os.Environ(), "AFLOAT_SOCKET="+ts.Getenv("AFLOAT_SOCKET"), "AFLOAT_TEST_KERNEL="+filepath.Join(dir, "kernel"))
		return cmd
	}
	out, err := run("afloat", "token", "create", "-o", "json").Output()
	ts.Check(err)
	var made api.TokenMade
	ts.Check(json.Unmarshal(out, &made))
	folders := []string{"--state", filepath.Join(dir, "state"), "--config", filepath.Join(dir, "etc")}
	if out, err := run("afloat-agent", append(folders, "join", "--server", made.Server, "--token", made.Token,
		"--publisher-key", "pub.pub", "--name", args[0])...).CombinedOutput(); err != nil {
		ts.Fatalf("join: %v: %s", err, out)
	}
	agent := run("afloat-agent", append(folders, "run")...)
	ts.Check(agent.Start())
	ts.Defer(func() {
		_ = agent.Process.Kill() // it may be gone
		_ = agent.Wait()         // it was killed: its status says nothing
	})
}

// until PATTERN COMMAND... repeats a command until its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	want := regexp.MustCompile(args[0])
	deadline := time.Now().Add(60 * time.Second)
	for {
		cmd := exec.Command(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[1]), args[2:]...)
		cmd.Dir, cmd.Env = ts.MkAbs("."), append(os.Environ(), "AFLOAT_SOCKET="+ts.Getenv("AFLOAT_SOCKET"))
		out, err := cmd.CombinedOutput()
		if err == nil && want.Match(out) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: %v, never %q:\n%s", args[1:], err, args[0], out)
		}
	}
}

// seal KEY OUT NAME RELEASE [REBOOT] writes a bundle signed by the key in a PEM file.
func seal(ts *testscript.TestScript, _ bool, args []string) {
	key, err := bundle.ParsePrivateKey([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	reboot := bundle.Reboot(strings.Join(args[4:], ""))
	file, err := bundle.Seal(ed25519.PrivateKey(key), bundle.Manifest{Kind: bundle.KindLive, Name: args[2], Module: "afloat_x", Reboot: reboot,
		Kernel: kernel.ID{Release: args[3], Version: "#1 SMP test", BuildID: "00" + args[3]}, Created: time.Unix(0, 0).UTC()}, []byte("payload"))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), file, 0o644))
}

// flip FILE OUT changes the last bit of a file.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	data[len(data)-1] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o644))
}

// setenvfrom NAME FILE FIELD sets NAME to a field, counted from 0, of a file's text.
func setEnvFrom(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Setenv(args[0], strings.Fields(ts.ReadFile(args[1]))[n])
}

// jsonenv NAME FILE FIELD sets NAME to a field of a file's JSON object.
func jsonEnv(ts *testscript.TestScript, _ bool, args []string) {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &v))
	ts.Setenv(args[0], fmt.Sprint(v[args[2]]))
}

// ports sets HTTPS and NATS to free addresses, so that a restarted server has the same ones.
func ports(ts *testscript.TestScript, _ bool, _ []string) {
	for _, name := range []string{"HTTPS", "NATS"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		ts.Setenv(name, l.Addr().String())
		ts.Check(l.Close())
	}
}

// as UID COMMAND... runs a command as another user of group 0; the script has made sure that this is root.
func as(ts *testscript.TestScript, neg bool, args []string) {
	program := filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[1])
	for _, dir := range []string{filepath.Dir(program), filepath.Dir(filepath.Dir(program))} {
		ts.Check(os.Chmod(dir, 0o755)) // or the other user cannot run it
	}
	line := append([]string{"--reuid=" + args[0], "--regid=0", "--clear-groups", program}, args[2:]...)
	err := ts.Exec("setpriv", line...)
	if (err == nil) == neg {
		ts.Fatalf("as %s: %v", args[0], err)
	}
}
