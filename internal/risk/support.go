package risk

import (
	"fmt"
	"strings"
	"time"

	"afloat/internal/kernel"
)

// Support is how long a kernel's vendor repairs it.
type Support struct {
	Vendor  string `json:"vendor"`  // Debian
	Release string `json:"release"` // 12 (bookworm)
	// Security is the last day of the vendor's own security support, Long that of
	// its long-term support; both in UTC.
	Security time.Time `json:"security"`
	Long     time.Time `json:"long"`
	// State is "security", "long-term" or "ended".
	State string `json:"state"`
}

// release is one Debian release with the kernel series it ships. The days are
// those of debian.csv in Debian's distro-info-data 0.58+deb12u6.
type release struct {
	number, codename, series string
	security, long           string
}

func releases() []release {
	return []release{
		{"11", "bullseye", "5.10", "2024-08-14", "2026-08-31"},
		{"12", "bookworm", "6.1", "2026-07-11", "2028-06-30"},
		{"13", "trixie", "6.12", "2028-08-09", "2030-06-30"},
	}
}

// SupportOf returns the support status of a kernel at a time, and whether it is
// known: Debian puts its package version into the kernel's version string. A
// kernel that was built for an older release from a newer one's (backports,
// long-term support) has the support of the release it was built for.
func SupportOf(id kernel.ID, now time.Time) (Support, bool) {
	_, rest, ok := strings.Cut(id.Version, " Debian ")
	version, _, _ := strings.Cut(rest, " ")
	if !ok || version == "" {
		return Support{}, false
	}
	for _, r := range releases() {
		if !r.has(version) {
			continue
		}
		s := Support{Vendor: "Debian", Release: r.number + " (" + r.codename + ")", Security: day(r.security), Long: day(r.long), State: "ended"}
		switch {
		case now.Before(s.Security.AddDate(0, 0, 1)):
			s.State = "security"
		case now.Before(s.Long.AddDate(0, 0, 1)):
			s.State = "long-term"
		}
		return s, true
	}
	return Support{}, false
}

// has says whether the package version is one of the release's.
func (r release) has(version string) bool {
	for _, mark := range []string{"~deb", "+deb", "~bpo"} {
		if _, after, ok := strings.Cut(version, mark); ok {
			return strings.HasPrefix(after, r.number+"u") || strings.HasPrefix(after, r.number+"+")
		}
	}
	return strings.HasPrefix(version, r.series+".")
}

func day(s string) time.Time {
	t, _ := time.Parse(time.DateOnly, s) // only the table above; a test reads it
	return t
}

// String is one line for people.
func (s Support) String() string {
	name := s.Vendor + " " + s.Release
	security, long := s.Security.Format(time.DateOnly), s.Long.Format(time.DateOnly)
	switch s.State {
	case "security":
		return fmt.Sprintf("%s: security support until %s", name, security)
	case "long-term":
		return fmt.Sprintf("%s: security support ended on %s, long-term support until %s", name, security, long)
	}
	return fmt.Sprintf("%s: no support since %s: plan a newer kernel, new faults are not repaired in this one", name, long)
}
