package policy

import "slices"

// careful refuses what can be read, and what its author cannot have meant.
func (p *Policy) careful(d *document) error {
	if err := p.carefulWaves(d); err != nil {
		return err
	}
	if err := p.carefulBounds(d); err != nil {
		return err
	}
	selectors := []text{d.Select}
	for _, w := range d.Waves.list {
		selectors = append(selectors, w.Select)
	}
	for _, b := range d.Budgets {
		selectors = append(selectors, b.Select)
	}
	for _, t := range selectors {
		s, err := t.selector()
		if err != nil {
			return err
		}
		for _, term := range s.Terms() {
			if slices.Equal(term.Values, []string{""}) {
				return t.errorf("selector %q compares %s with nothing: give a value, %[2]s for hosts that have the label, !%[2]s for those that do not",
					t.s, term.Key)
			}
		}
	}
	return nil
}

// carefulBounds refuses bounds that bound nothing.
func (p *Policy) carefulBounds(d *document) error {
	if a, err := d.Unavailable.amount(); d.Unavailable.s != "" && err == nil && a.Zero() { // Down may have its default by now
		return d.Unavailable.errorf("unavailable %q would bound nothing: give a number or share of hosts, such as 1 or 5%%, or leave it out", d.Unavailable.s)
	}
	for i := range p.Budgets {
		if b := &p.Budgets[i]; b.Warm > 0 && !b.Caps() {
			return d.Budgets[i].Warm.errorf("budget %s: warm bounds nothing by itself: add unavailable or headroom, which count cold hosts as out", b.Name)
		}
	}
	return nil
}

// carefulWaves wants waves, each with a name of its own: reports, holds and
// audit name a wave by nothing else.
func (p *Policy) carefulWaves(d *document) error {
	if len(d.Waves.list) == 0 {
		at := d.Waves.text
		if at.at == nil {
			at = d.Name
		}
		return at.errorf("no waves: say in which steps hosts change, waves: [{size: 100%%}] for all of them at once")
	}
	taken := map[string]bool{}
	for i, w := range p.Waves {
		if !taken[w.Name] {
			taken[w.Name] = true
			continue
		}
		places := []text{d.Gate.Control.Size} // of the control wave, which is in no list
		if i < len(d.Waves.list) {
			r := d.Waves.list[i]
			places = []text{r.Name, r.Select, r.Size}
		}
		for _, at := range places {
			if at.s != "" {
				return at.errorf("wave name %q is taken by an earlier wave: give each a name of its own", w.Name)
			}
		}
	}
	return nil
}
