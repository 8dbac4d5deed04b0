package bench

import (
	"path"
	"slices"
	"testing"
)

func TestFigureLine(t *testing.T) {
	for want, f := range map[string]Figure{
		"bench build_warm_ratio 1.234 ratio": {"build_warm_ratio", 1.2341, "ratio"},
		"bench agent_rss_mb 10.9 MB":         {"agent_rss_mb", 10.94, "MB"},
	} {
		if got := f.String(); got != want {
			t.Errorf("line = %q, want %q", got, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{7}, 7}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 100}, 3}} {
		before := slices.Clone(test.values)
		if got := median(test.values); got != test.want {
			t.Errorf("median(%v) = %v, want %v", before, got, test.want)
		}
		if !slices.Equal(before, test.values) {
			t.Errorf("median changed its argument to %v", test.values)
		}
	}
}

func TestMegabytes(t *testing.T) {
	const status = "Name:\tafloat\nVmHWM:\t   90000 kB\nVmRSS:\t  1000 kB\n"
	if got := megabytes(status, "VmHWM:"); got != 92.16 {
		t.Errorf("VmHWM = %v, want 92.16", got)
	}
	if got := megabytes(status, "VmSwap:"); got != 0 {
		t.Errorf("a field that is not there = %v, want 0", got)
	}
}

// TestEveryPatchIsUsed: a patch that no list names would be measured by nothing.
func TestEveryPatchIsUsed(t *testing.T) {
	entries, err := patches.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	names := ten()
	for _, e := range entries {
		name := e.Name()[:len(e.Name())-len(path.Ext(e.Name()))]
		if !slices.Contains(names, name) {
			t.Errorf("%s is in no list", e.Name())
		}
	}
	if len(entries) != len(names) || len(names) != 10 || len(single()) != 5 {
		t.Errorf("%d patches, %d in the list, %d alone; want 10, 10, 5", len(entries), len(names), len(single()))
	}
}
