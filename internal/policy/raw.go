package policy

import (
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// document is the YAML as it is written: every scalar keeps its place.
type document struct {
	Name     text       `yaml:"name"`
	Target   *rawTarget `yaml:"target"`
	Fallback text       `yaml:"fallback"`
	// kernel that fallback reboot boots into
	FallbackKernel text        `yaml:"fallbackKernel"`
	Urgency        text        `yaml:"urgency"`
	Reason         text        `yaml:"reason"`
	Select         text        `yaml:"select"`
	Waves          rawWaves    `yaml:"waves"`
	Gate           rawGate     `yaml:"gate"`
	Budgets        []rawBudget `yaml:"budgets"`
	Windows        []text      `yaml:"windows"`
	Freezes        []text      `yaml:"freezes"`
	Unavailable    text        `yaml:"unavailable"`
	Rate           text        `yaml:"rate"`
	MinInterval    text        `yaml:"minInterval"`
	Debt           rawDebt     `yaml:"debt"`
	Reboot         text        `yaml:"reboot"`
	Timeouts       rawTimeouts `yaml:"timeouts"`
}

type rawTarget struct {
	Live    text `yaml:"live"`
	Kernel  text `yaml:"kernel"`
	Module  text `yaml:"module"`
	Replace text `yaml:"replace"`
	Restart text `yaml:"restart"`
	From    text `yaml:"from"`
}

// rawWaves is the list of waves with the place where it begins.
type rawWaves struct {
	text
	list []rawWave
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (w *rawWaves) UnmarshalYAML(n ast.Node) error {
	w.at = n.GetToken().Position
	return yaml.NodeToValue(n, &w.list, yaml.Strict())
}

type rawWave struct {
	Name       text `yaml:"name"`
	Select     text `yaml:"select"`
	Size       text `yaml:"size"`
	Soak       text `yaml:"soak"`
	Failures   text `yaml:"failures"`
	Stragglers text `yaml:"stragglers"`
}

type rawGate struct {
	Crashes        rawCrashes  `yaml:"crashes"`
	Control        rawControl  `yaml:"control"`
	Metrics        []rawMetric `yaml:"metrics"`
	NoData         text        `yaml:"noData"`
	OnInconclusive text        `yaml:"onInconclusive"`
	OnRevert       text        `yaml:"onRevert"`
}

type rawCrashes struct {
	FalseRevert text   `yaml:"falseRevert"`
	Baseline    text   `yaml:"baseline"`
	Spread      text   `yaml:"spread"`
	Cap         rawCap `yaml:"cap"`
}

type rawCap struct {
	Excess text `yaml:"excess"`
	Within text `yaml:"within"`
}

type rawControl struct {
	Size text `yaml:"size"`
	By   text `yaml:"by"`
}

type rawMetric struct {
	Query text `yaml:"query"`
	Max   text `yaml:"max"`
}

type rawBudget struct {
	Name        text `yaml:"name"`
	Select      text `yaml:"select"`
	GroupBy     text `yaml:"groupBy"`
	Unavailable text `yaml:"unavailable"`
	Domains     text `yaml:"domains"`
	Warm        text `yaml:"warm"`
	Starts      text `yaml:"starts"`
	Headroom    text `yaml:"headroom"`
	Load        text `yaml:"load"`
	Order       text `yaml:"order"`
	Disruptions text `yaml:"disruptions"`
}

type rawDebt struct {
	Reboot     text `yaml:"reboot"`
	BootSample text `yaml:"bootSample"`
	Kernel     text `yaml:"kernel"`
}

type rawTimeouts struct {
	Silent text `yaml:"silent"`
	Stuck  text `yaml:"stuck"`
	Drain  text `yaml:"drain"`
	Boot   text `yaml:"boot"`
}
