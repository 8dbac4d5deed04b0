package sim

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
	"time"
)

const (
	svgWidth, svgHeight = 960, 420
	svgLeft, svgRight   = 60, 60
	svgTop, svgBottom   = 40, 60
)

// SVG draws a run: hosts with the patch, hosts under way, and the evidence
// with the levels at which it holds and reverts.
func (r Result) SVG(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", svgWidth, svgHeight)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="24" font-size="15">seed %d: %s, %d of %d hosts exposed</text>`+"\n",
		svgLeft, r.Seed, html.EscapeString(string(r.Phase)), r.Exposed, r.Hosts)
	x := func(at time.Duration) float64 {
		return svgLeft + float64(svgWidth-svgLeft-svgRight)*at.Seconds()/max(1, r.Took.Seconds())
	}
	y := func(share float64) float64 {
		return float64(svgHeight-svgBottom) - float64(svgHeight-svgTop-svgBottom)*min(1, max(0, share))
	}
	hosts := float64(max(1, r.Hosts))
	evidence := func(e float64) float64 { return (math.Log10(max(e, 0.1)) + 1) / 5 } // 0.1 to 10,000
	line := func(colour, dash string, value func(Sample) float64) {
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" stroke-dasharray="%s" points="`, colour, dash)
		for _, s := range r.Samples {
			fmt.Fprintf(&b, "%.1f,%.1f ", x(s.At), y(value(s)))
		}
		b.WriteString(`"/>` + "\n")
	}
	for _, level := range []struct {
		e    float64
		name string
	}{{20, "hold"}, {100, "revert"}} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#c00" stroke-dasharray="2,4"/><text x="%d" y="%.1f" fill="#c00">%s E=%g</text>`+"\n",
			svgLeft, svgWidth-svgRight, y(evidence(level.e)), y(evidence(level.e)), svgWidth-svgRight+4, y(evidence(level.e))+4, level.name, level.e)
	}
	line("#1668b8", "none", func(s Sample) float64 { return float64(s.Exposed) / hosts })
	line("#e08a00", "none", func(s Sample) float64 { return float64(s.Acting) / hosts })
	line("#c00", "none", func(s Sample) float64 { return evidence(s.E) })
	for i := range 5 {
		at := r.Took * time.Duration(i) / 4
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n", x(at), svgHeight-svgBottom+18, at.Round(time.Minute))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%d %%</text>`+"\n", svgLeft-6, y(float64(i)/4)+4, i*25)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d"><tspan fill="#1668b8">hosts with the patch</tspan> <tspan fill="#e08a00">under way</tspan> <tspan fill="#c00">evidence E (log)</tspan></text>`+"\n</svg>\n",
		svgLeft, svgHeight-16)
	_, err := io.WriteString(w, b.String())
	return err
}
