package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Lab ports lie below the kernel's ephemeral range (32768 up), so no outgoing
// connection takes one while its guest is powered off.
const (
	portLow  = 20000
	portHigh = 32000
)

// freePorts returns n different ports of 127.0.0.1 that nobody listens on.
// All are held while it looks, so none comes twice.
func freePorts(n int) ([]int, error) {
	var ports []int
	var held []net.Listener
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	start := rand.IntN(portHigh - portLow)
	for i := 0; len(ports) < n; i++ {
		if i == portHigh-portLow {
			return nil, errors.New("find free ports: none left")
		}
		port := portLow + (start+i)%(portHigh-portLow)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		held, ports = append(held, l), append(ports, port)
	}
	return ports, nil
}
