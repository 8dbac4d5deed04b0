// Package e2e holds the tests that run whole fleets: real kernels in QEMU, real
// agents, a real server, driven by the commands that operators type.
package e2e
