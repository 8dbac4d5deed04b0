package sim

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// The picture: three panels over one time axis, and the words beside them.
const (
	svgWidth, svgHeight = 1080, 640
	svgLeft, svgRight   = 64, 210
	svgTop              = 76
	svgPanel, svgGap    = 140, 34
)

const (
	inkBlue, inkOrange, inkRed, inkGreen = "#1b6ca8", "#d97b00", "#c0272d", "#2e7d4f"
	inkText, inkFaint, inkGrid           = "#1f2933", "#6b7785", "#e3e8ee"
)

// drawing is one picture under way.
type drawing struct {
	strings.Builder
	r Result
}

// SVG draws a run: who has the target and who is under way, the evidence with
// the levels at which it holds and reverts, and what is left of the capacity.
func (r Result) SVG(w io.Writer) error {
	d := &drawing{r: r}
	fmt.Fprintf(d, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,-apple-system,'Segoe UI',sans-serif" font-size="12" fill="%s">`+"\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", svgWidth, svgHeight, inkText)
	d.title()
	hosts := r.top()
	d.panel(0, "hosts", func(share float64) string { return short(share * hosts) })
	d.area(0, inkBlue, func(s Sample) float64 { return float64(s.Exposed) / hosts })
	d.line(0, inkOrange, func(s Sample) float64 { return float64(s.Acting) / hosts })
	d.legend(0, key{inkBlue, "have it"}, key{inkOrange, "under way"})
	d.panel(1, "evidence E", func(share float64) string { return strconv.FormatFloat(math.Pow(10, 4*share-1), 'g', 4, 64) })
	d.level(1, evidence(r.Levels.Hold), fmt.Sprintf("holds at %.0f", r.Levels.Hold))
	d.level(1, evidence(r.Levels.Revert), fmt.Sprintf("reverts at %.0f", r.Levels.Revert))
	d.line(1, inkRed, func(s Sample) float64 { return evidence(s.E) })
	d.panel(2, "capacity", func(share float64) string { return fmt.Sprintf("%.0f %%", share*100) })
	d.line(2, inkGreen, func(s Sample) float64 { return s.Serving })
	if len(r.Budgets) > 0 {
		d.line(2, inkOrange, func(s Sample) float64 { return s.Spent })
	}
	d.legend(2, append([]key{{inkGreen, "in service, worst service"}}, d.spent()...)...)
	d.moments()
	d.clock()
	d.WriteString("</svg>\n")
	_, err := io.WriteString(w, d.String())
	return err
}

// top is where the axis of hosts ends: a round number above the most that had it.
func (r Result) top() float64 {
	most := 1.0
	for _, s := range r.Samples {
		most = max(most, float64(s.Exposed), float64(s.Acting))
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, by := range []float64{1, 2, 4, 6, 8} {
		if by*step >= most {
			return by * step
		}
	}
	return 10 * step
}

func last(s []Sample) Sample {
	if len(s) == 0 {
		return Sample{}
	}
	return s[len(s)-1]
}

// evidence is the height of E: from 0.1 to 1,000, by its logarithm.
func evidence(e float64) float64 { return (math.Log10(max(e, 0.1)) + 1) / 4 }

// short is a number of hosts in few letters.
func short(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.3gM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.3gk", n/1e3)
	}
	return fmt.Sprintf("%.0f", n)
}

func (d *drawing) x(at time.Duration) float64 {
	return svgLeft + float64(svgWidth-svgLeft-svgRight)*at.Seconds()/max(1, d.r.Took.Seconds())
}

// y is a height in panel n, from 0 at its foot to 1.
func (d *drawing) y(n int, share float64) float64 {
	return float64(svgTop+n*(svgPanel+svgGap)) + svgPanel*(1-min(1, max(0, share)))
}

func (d *drawing) text(x, y float64, ink, more, format string, args ...any) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" fill="%s" %s>%s</text>`+"\n", x, y, ink, more, html.EscapeString(fmt.Sprintf(format, args...)))
}

func (d *drawing) title() {
	r := d.r
	d.text(svgLeft, 28, inkText, `font-size="18" font-weight="600"`, "%s after %s: %d of %d hosts had it", r.Phase, r.Took.Round(time.Second), r.Exposed, r.Hosts)
	why := cmp.Or(r.Hold, r.Reason)
	if most := 150; len([]rune(why)) > most {
		why = string([]rune(why)[:most]) + " ..."
	}
	d.text(svgLeft, 48, inkFaint, "", "%s", why)
}

func (d *drawing) panel(n int, name string, label func(float64) string) {
	for i := range 5 {
		share := float64(i) / 4
		fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>`+"\n", svgLeft, svgWidth-svgRight, d.y(n, share), d.y(n, share), inkGrid)
		d.text(svgLeft-8, d.y(n, share)+4, inkFaint, `text-anchor="end" font-size="11"`, "%s", label(share))
	}
	d.text(float64(svgWidth-svgRight+12), d.y(n, 1)+10, inkText, `font-weight="600"`, "%s", name)
}

// key is one line of a legend.
type key struct{ ink, text string }

func (d *drawing) legend(n int, keys ...key) {
	for i, k := range keys {
		y := d.y(n, 1) + 30 + float64(i)*18
		if k.ink != "" {
			fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="3"/>`+"\n", svgWidth-svgRight+12, svgWidth-svgRight+28, y-4, y-4, k.ink)
		}
		d.text(float64(svgWidth-svgRight+34), y, inkText, `font-size="11"`, "%s", k.text)
	}
}

// spent names the budgets that were used most.
func (d *drawing) spent() []key {
	if len(d.r.Budgets) == 0 {
		return []key{{"", "no budgets"}}
	}
	keys := []key{{inkOrange, "of the most used budget"}}
	for _, b := range d.r.Budgets[:min(3, len(d.r.Budgets))] {
		keys = append(keys, key{"", strings.TrimSpace(fmt.Sprintf("%s %s", b.Budget, b.Group)) + fmt.Sprintf(": %d of %d", b.Most, b.Limit)})
	}
	return keys
}

func (d *drawing) level(n int, at float64, text string) {
	fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="2,4"/>`+"\n", svgLeft, svgWidth-svgRight, d.y(n, at), d.y(n, at), inkRed)
	d.text(float64(svgWidth-svgRight+12), d.y(n, at)+4, inkRed, `font-size="11"`, "%s", text)
}

// points are the samples as the points of a line.
func (d *drawing) points(n int, value func(Sample) float64) string {
	var b strings.Builder
	for _, s := range d.r.Samples {
		fmt.Fprintf(&b, "%.1f,%.1f ", d.x(s.At), d.y(n, value(s)))
	}
	return b.String()
}

func (d *drawing) line(n int, ink string, value func(Sample) float64) {
	fmt.Fprintf(d, `<polyline fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" points="%s"/>`+"\n", ink, d.points(n, value))
}

func (d *drawing) area(n int, ink string, value func(Sample) float64) {
	fmt.Fprintf(d, `<polygon fill="%s" fill-opacity="0.12" points="%.1f,%.1f %s%.1f,%.1f"/>`+"\n", ink, d.x(0), d.y(n, 0), d.points(n, value), d.x(last(d.r.Samples).At), d.y(n, 0))
	d.line(n, ink, value)
}

// moments marks what changed the course: waves that open, holds, crashes, reverts.
func (d *drawing) moments() {
	free := map[int]float64{} // where the next text of a row may begin
	const most = 60
	for i, m := range d.r.Moments {
		ink := inkFaint
		switch {
		case strings.HasPrefix(m.Text, "crash"), strings.HasPrefix(m.Text, "revert"):
			ink = inkRed
		case strings.HasPrefix(m.Text, "holds"), strings.HasPrefix(m.Text, "fault"):
			ink = inkOrange
		case !strings.HasSuffix(m.Text, " opens"):
			continue
		}
		if i > most*10 {
			return
		}
		x := d.x(m.At)
		fmt.Fprintf(d, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%.1f" stroke="%s" stroke-opacity="0.5"><title>%s %s</title></line>`+"\n",
			x, x, svgTop-8, d.y(2, 0), ink, m.At.Round(time.Second), html.EscapeString(m.Text))
		label := strings.TrimSuffix(strings.TrimPrefix(m.Text, "wave "), " opens")
		label, _, _ = strings.Cut(label, ":")
		if r := []rune(label); len(r) > 24 {
			label = string(r[:24])
		}
		if x >= free[0] {
			d.text(x+2, svgTop-10, ink, `font-size="10"`, "%s", label)
			free[0] = x + 6*float64(len(label)) + 8
		}
	}
}

func (d *drawing) clock() {
	const ticks = 6
	for i := range ticks + 1 {
		at := d.r.Took * time.Duration(i) / ticks
		d.text(d.x(at), d.y(2, 0)+18, inkFaint, `text-anchor="middle" font-size="11"`, "%s", at.Round(time.Minute))
	}
	r := d.r
	d.text(svgLeft, d.y(2, 0)+44, inkFaint, `font-size="11"`, "%d crashes by the target, %d of healthy hosts, %d held against it. Seed %d.", r.Crashes, r.Background, r.Counted, r.Seed)
}
