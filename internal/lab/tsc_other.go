//go:build !amd64

package lab

// tscKHz is 0: not known, guests measure it themselves.
func tscKHz() uint64 { return 0 }
