package cli

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"afloat/internal/api"
)

// watchEvery is how often watch asks, and watchPatience how long it goes on
// while the server does not answer: it may be restarting.
const (
	watchEvery    = 250 * time.Millisecond
	watchPatience = 2 * time.Minute
)

func newRolloutWatch(socket *string) *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow a rollout until it ends", Args: cobra.ExactArgs(1),
		Long: `Follows a rollout until it ends: a live view on a terminal, a line for each
change otherwise. The exit code is 0 only when the rollout reached its target.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return watch(cmd.Context(), cmd.OutOrStdout(), dial(*socket), args[0])
		},
	}
}

func watch(ctx context.Context, out io.Writer, c *client, id string) error {
	view := newView(out)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	heard := time.Now()
	for seen := false; ; {
		var d api.RolloutDetail
		err := c.get(ctx, api.PathRollout, url.Values{"id": {id}}, &d)
		switch {
		case err == nil:
			heard, seen = time.Now(), true
			view.show(d)
			if d.Ended {
				return verdict(d.Rollout)
			}
		case !seen || ctx.Err() != nil || time.Since(heard) > watchPatience:
			return err
		default:
			view.note("the server does not answer; the hosts keep what they have")
		}
		select {
		case <-ctx.Done():
			return withHint(fmt.Errorf("stopped watching rollout %s; it goes on", id), "afloat rollout abort %s ends it", id)
		case <-tick.C:
		}
	}
}

// verdict makes the exit code say how the rollout ended.
func verdict(r api.Rollout) error {
	if r.Good {
		return nil
	}
	return withHint(fmt.Errorf("rollout %s is %s: %s", r.ID, r.State, r.Reason), "afloat rollout status %s; afloat explain host ID", r.ID)
}

// view is what watch draws on.
type view interface {
	show(api.RolloutDetail)
	note(string)
}

func newView(out io.Writer) view {
	if f, ok := out.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			return &screen{out: out, width: max(40, int(size.Col)), height: max(4, int(size.Row)-1)}
		}
	}
	return &lines{out: out, phases: map[string]string{}, waves: map[string]string{}}
}

// screen redraws the same few lines of a terminal.
type screen struct {
	out           io.Writer
	width, height int
	drawn         int // lines on the screen now
}

func (s *screen) show(d api.RolloutDetail) { s.draw(summary(d.Rollout)) }

func (s *screen) note(text string) { s.draw([]string{text}) }

func (s *screen) draw(text []string) {
	if s.drawn > 0 {
		fmt.Fprintf(s.out, "\x1b[%dA\x1b[J", s.drawn) // up, and clear to the end
	}
	if n := len(text) - s.height; n > 0 { // what scrolled away could not be redrawn
		text = append(text[:s.height-1:s.height-1], fmt.Sprintf("  ... and %d lines more", n+1))
	}
	for _, line := range text {
		if r := []rune(line); len(r) > s.width {
			line = string(r[:s.width-1]) + "…"
		}
		fmt.Fprintln(s.out, line)
	}
	s.drawn = len(text)
}

// lines prints what has changed, for pipes and logs.
type lines struct {
	out    io.Writer
	state  string
	debt   string
	waves  map[string]string
	phases map[string]string
	noted  string
}

func (l *lines) show(d api.RolloutDetail) {
	l.noted = ""
	for _, h := range d.Members {
		is := h.Phase
		if h.Reason != "" {
			is += ": " + h.Reason
		}
		if was, known := l.phases[string(h.ID)]; was != is && (known || h.Phase != "waiting") {
			l.say("%s %s", placed(h), is)
		}
		l.phases[string(h.ID)] = is
	}
	for _, w := range d.Waves {
		is := w.State
		if w.Reason != "" {
			is += ": " + w.Reason
		}
		if l.waves[w.Name] != is {
			if p := phases(w.Phases); p != "" {
				l.say("wave %s: %s (%s)", w.Name, is, p)
			} else {
				l.say("wave %s: %s", w.Name, is)
			}
		}
		l.waves[w.Name] = is
	}
	if who, _, _ := strings.Cut(d.Debt, "; the forecast"); l.debt != who { // that moves with the clock
		l.debt = who
		if who != "" {
			l.say("debt: %s", d.Debt)
		}
	}
	is := d.State
	if d.Reason != "" {
		is += ": " + d.Reason
	}
	if l.state != is {
		l.say("rollout %s %s", d.ID, is)
	}
	l.state = is
}

// placed names a host and its wave; not every host is in a wave yet.
func placed(h api.RolloutHost) string {
	if h.Wave == "" {
		return h.Name
	}
	return fmt.Sprintf("%s (%s)", h.Name, h.Wave)
}

func (l *lines) note(text string) {
	if l.noted != text {
		l.say("%s", text)
	}
	l.noted = text
}

func (l *lines) say(format string, args ...any) {
	fmt.Fprintf(l.out, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

const barWidth = 24

// summary is a rollout in a few lines, one for each wave.
func summary(r api.Rollout) []string {
	head := fmt.Sprintf("rollout %s  %s -> %s  %s", r.ID, r.Name, r.Target, r.State)
	if r.Reason != "" {
		head += ": " + r.Reason
	}
	out := []string{head}
	wide := 0
	for _, w := range r.Waves {
		wide = max(wide, len(w.Name))
	}
	for _, w := range r.Waves {
		line := fmt.Sprintf("  %-*s %s %d/%d  %s  %s", wide, w.Name, bar(w), settled(w), w.Hosts, w.State, phases(w.Phases))
		if w.SoakLeftS > 0 {
			line += fmt.Sprintf("  soak %s", time.Duration(w.SoakLeftS*float64(time.Second)).Round(time.Second))
		}
		if w.Reason != "" {
			line += "  " + w.Reason
		}
		out = append(out, strings.TrimRight(line, " "))
	}
	if r.ETA != "" {
		out = append(out, "  eta: "+r.ETA)
	}
	for _, u := range r.Unbound {
		out = append(out, "  budgets: "+u)
	}
	if r.Reboot != "" {
		out = append(out, "  reboot: "+r.Reboot+", by its publisher's word")
	}
	if r.Debt != "" {
		out = append(out, "  debt: "+r.Debt)
	}
	if r.Verdict != "" {
		out = append(out, "  gate: "+strings.Join(slices.Concat([]string{r.Verdict}, r.Reasons), "; "))
	}
	return out
}

// settled counts the hosts of a wave that have reached the target.
func settled(w api.Wave) int { return w.Phases["done"] + w.Phases["soaking"] }

func bar(w api.Wave) string {
	if w.Hosts == 0 {
		return "[" + strings.Repeat(" ", barWidth) + "]"
	}
	n := barWidth * settled(w) / w.Hosts
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", barWidth-n) + "]"
}
