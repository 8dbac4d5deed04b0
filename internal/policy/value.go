package policy

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"afloat/internal/fleet"
)

var (
	durationPattern = regexp.MustCompile(`^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w))+$`)
	unitPattern     = regexp.MustCompile(`([0-9.]+)(ns|us|ms|s|m|h|d|w)`)
	objectPattern   = regexp.MustCompile(`^[!-~]{1,256}$`)
	namePattern     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// hours of the units that time.ParseDuration does not know.
func unit(name string) time.Duration {
	switch name {
	case "w":
		return 7 * 24 * time.Hour
	case "d":
		return 24 * time.Hour
	}
	d, _ := time.ParseDuration("1" + name) // the pattern lets only its units through
	return d
}

func (t text) duration(fallback time.Duration) (time.Duration, error) {
	if t.s == "" {
		return fallback, nil
	}
	if t.s == "0" {
		return 0, nil
	}
	if !durationPattern.MatchString(t.s) {
		return 0, t.errorf("%q is not a duration such as 30m, 24h or 30d", t.s)
	}
	total := 0.0
	for _, m := range unitPattern.FindAllStringSubmatch(t.s, -1) {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, t.errorf("%q is not a duration: %q is not a number", t.s, m[1])
		}
		total += n * float64(unit(m[2]))
	}
	if total > float64(10*365*24*time.Hour) {
		return 0, t.errorf("%q is longer than ten years", t.s)
	}
	return time.Duration(total), nil
}

// ratio reads 1%, 1/1000 or 0.01 as a share from 0 to 1.
func (t text) ratio() (float64, error) {
	v, ok := parseRatio(t.s)
	if !ok || math.IsNaN(v) || v < 0 || v > 1 {
		return 0, t.errorf("%q is not a share such as 1%%, 1/1000 or 0.01", t.s)
	}
	return v, nil
}

func parseRatio(s string) (float64, bool) {
	if rest, ok := strings.CutSuffix(s, "%"); ok {
		v, err := strconv.ParseFloat(rest, 64)
		return v / 100, err == nil
	}
	if a, b, ok := strings.Cut(s, "/"); ok {
		n, err1 := strconv.ParseFloat(a, 64)
		d, err2 := strconv.ParseFloat(b, 64)
		return n / d, err1 == nil && err2 == nil && d > 0
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

func (t text) number() (float64, error) {
	v, err := strconv.ParseFloat(t.s, 64)
	if err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0, t.errorf("%q is not a number from 0 up", t.s)
	}
	return v, nil
}

// amount reads 3, 20%, 1/5 or quorum-1.
func (t text) amount() (Amount, error) {
	if rest, ok := strings.CutPrefix(t.s, "quorum"); ok {
		if rest == "" {
			return Amount{Quorum: true}, nil
		}
		n, err := strconv.Atoi(strings.TrimPrefix(rest, "-"))
		if err != nil || n < 0 || rest[0] != '-' {
			return Amount{}, t.errorf("%q is not quorum or quorum-N", t.s)
		}
		return Amount{Quorum: true, N: n}, nil
	}
	if n, err := strconv.Atoi(t.s); err == nil {
		if n < 0 || n > 100_000_000 {
			return Amount{}, t.errorf("%d is not a number of hosts", n)
		}
		return Amount{N: n}, nil
	}
	v, ok := parseRatio(t.s)
	if !ok || !(v >= 0 && v <= 1) {
		return Amount{}, t.errorf("%q is not an amount such as 3, 20%% or quorum-1", t.s)
	}
	return Amount{Share: v}, nil
}

// rate reads "60 per 30m".
func (t text) rate() (Rate, error) {
	n, per, ok := strings.Cut(t.s, " per ")
	count, err := strconv.Atoi(strings.TrimSpace(n))
	if !ok || err != nil || count < 1 {
		return Rate{}, t.errorf("%q is not a rate such as 60 per 30m", t.s)
	}
	word := strings.TrimSpace(per)
	switch word {
	case "week":
		word = "1w"
	case "day":
		word = "1d"
	case "hour":
		word = "1h"
	case "minute":
		word = "1m"
	}
	d, err := t.part(word).duration(0)
	if err != nil {
		return Rate{}, err
	}
	if d <= 0 {
		return Rate{}, t.errorf("%q: the time of a rate is more than nothing", t.s)
	}
	return Rate{N: count, Per: d}, nil
}

func (t text) selector() (fleet.Selector, error) {
	s, err := fleet.ParseSelector(t.s)
	if err != nil {
		return s, t.errorf("%v", err)
	}
	return s, nil
}

func oneOf[T ~string](t text, fallback T, allowed ...T) (T, error) {
	if t.s == "" {
		return fallback, nil
	}
	var names []string
	for _, a := range allowed {
		if t.s == string(a) {
			return a, nil
		}
		names = append(names, string(a))
	}
	return "", t.errorf("%q is not one of %s", t.s, strings.Join(names, ", "))
}
