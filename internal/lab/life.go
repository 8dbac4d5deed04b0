package lab

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed life.sh
var lifeScript string

// Life takes one live patch through its life in a guest: load it, wait for its
// transition, try the guest and the patch, disable it, unload it, and read what
// the kernel said meanwhile.
type Life struct {
	Name  string // of the live patch's module
	Patch []byte // its .ko file
	// Check, if set, is a script that must succeed while the live patch is in effect.
	Check []byte
	// Contrast says that Check must fail before and after.
	Contrast bool
	// Late are modules of the kernel that are loaded while the live patch is in
	// effect, after those that they need.
	Late []string
	// Leave unloads the Late modules before the live patch is disabled: a kernel
	// thread of theirs may be in a replaced function as long as it lives.
	Leave bool
	// Warns, if set, is part of a warning that must come of the live patch.
	Warns string
}

// Lived is what a life showed.
type Lived struct {
	Load       time.Duration // how long the module took to load, to 10 ms
	Transition time.Duration // from then until every task had left the old code
	Redirected int           // functions that the kernel redirected
	Taint      string        // the module's own taint flags: O out of tree, K live patch, E not signed by whom the kernel trusts
	Log        string        // what the kernel said meanwhile
}

// LifeError says which step of a live patch's life went wrong.
type LifeError struct {
	Why    string
	Output string // what the step and the kernel said
}

func (e *LifeError) Error() string { return e.Why + "\n" + e.Output }

// lifeSteps says what went wrong by the exit codes of life.sh, from 1.
var lifeSteps = [...]string{
	"the check is true without the live patch",
	"the module does not load",
	"its transition does not end",
	"it is not enabled",
	"a module that it patches does not load after it",
	"the guest's disk or network does not work with it",
	"the check script is not true with it",
	"it cannot be disabled",
	"its transition back does not end",
	"it stays after it was disabled",
	"it does not unload",
	"the check stays true after it was unloaded",
	"the guest's disk or network does not work after it",
	"a module that it patches does not unload before it",
}

// lifeFolder is where life.sh finds its files.
const lifeFolder = "/tmp/life/"

// logEnd is how much of a log a failure shows, in bytes.
const logEnd = 6000

// Run runs the life in a guest that has nothing else live patched. A live patch
// that fails is a *LifeError; every other error means that the guest is gone.
func (l Life) Run(ctx context.Context, h *Host) (Lived, error) {
	files := map[string][]byte{"patch.ko": l.Patch}
	if l.Check != nil {
		files["check"] = l.Check
	}
	late, err := l.addLate(files, h.Kernel)
	if err != nil {
		return Lived{}, err
	}
	if _, err := h.Run(ctx, "rm", "-rf", lifeFolder); err != nil {
		return Lived{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := h.Put(ctx, lifeFolder+name, 0o755, files[name]); err != nil {
			return Lived{}, err
		}
	}
	contrast, leave := "", ""
	if l.Contrast {
		contrast = "contrast"
	}
	if l.Leave {
		leave = "leave"
	}
	out, err := h.Exec(ctx, append([]string{"sh", "-c", lifeScript, "life", l.Name, contrast, leave}, late...)...)
	if err != nil {
		return Lived{}, err
	}
	return l.judge(out)
}

// addLate adds the modules to load late, and returns them in the order to load them in.
func (l Life) addLate(files map[string][]byte, k Kernel) ([]string, error) {
	if len(l.Late) == 0 {
		return nil, nil
	}
	tree, err := openModules(k.ModulesDir)
	if err != nil {
		return nil, err
	}
	for _, name := range l.Late {
		if files[name+".ko"], err = tree.read(name); err != nil {
			return nil, err
		}
	}
	return l.Late, nil
}

// judge decides what a life that ran to its end, or to a step that failed, showed.
func (l Life) judge(out Result) (Lived, error) {
	if out.Code != 0 {
		why := fmt.Sprintf("exit code %d", out.Code)
		if out.Code >= 1 && out.Code <= len(lifeSteps) {
			why = lifeSteps[out.Code-1]
		}
		return Lived{}, &LifeError{Why: why, Output: tail(out.Output())}
	}
	lived := readLived(out.Stdout)
	if why := l.alarm(lived.Log); why != "" {
		return lived, &LifeError{Why: why, Output: tail(lived.Log)}
	}
	return lived, nil
}

// tail is the end of a log that a failure shows.
func tail(s string) string { return s[max(0, len(s)-logEnd):] }

// readLived parts life.sh's notes from what the kernel said.
func readLived(out string) Lived {
	var lived Lived
	var log strings.Builder
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "afloat-life" {
			log.WriteString(line)
			continue
		}
		switch f[1] {
		case "load":
			lived.Load = between(f[2:])
		case "transition":
			lived.Transition = between(f[2:]) - lived.Load
		case "redirected":
			lived.Redirected, _ = strconv.Atoi(f[2])
		case "taint":
			lived.Taint = f[2]
		}
	}
	lived.Log = log.String()
	return lived
}

// between is the time between two readings of /proc/uptime, in seconds.
func between(readings []string) time.Duration {
	if len(readings) != 2 {
		return 0
	}
	from, err1 := strconv.ParseFloat(readings[0], 64)
	to, err2 := strconv.ParseFloat(readings[1], 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return time.Duration((to - from) * float64(time.Second)).Round(time.Millisecond)
}

// alarms are the kernel's words for what must not happen.
var alarms = regexp.MustCompile(`WARNING: |BUG: |Oops|general protection|` + trace + `|INFO: task |rcu: INFO|unable to handle|` +
	`livepatch: .*(fail|cannot|unable|error)|Unknown symbol|[iI]nvalid relocation`)

// trace follows a warning.
const trace = "Call Trace"

// alarm says what is wrong with a log: a warning that should not be there, or
// one that is announced and is not, or "".
func (l Life) alarm(log string) string {
	announced := false
	for line := range strings.Lines(log) {
		switch {
		case !alarms.MatchString(line), announced && strings.Contains(line, trace):
		case l.Warns != "" && !announced && strings.Contains(line, l.Warns):
			announced = true
		default:
			return "the kernel warned: " + strings.TrimSpace(line)
		}
	}
	if l.Warns != "" && !announced {
		return "the kernel did not warn of " + l.Warns
	}
	return ""
}
