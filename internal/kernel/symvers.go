package kernel

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Export is one symbol that vmlinux or a module exports.
type Export struct {
	Name string
	// CRC of the symbol's type (CONFIG_MODVERSIONS), 0 if the kernel has none.
	CRC uint32
	// Owner is "vmlinux" or the module's name, with underscores for dashes
	// as the kernel shows it: drivers/net/virtio_net becomes virtio_net.
	Owner string
	// GPL says that only modules with a GPL-compatible license may use it.
	GPL bool
	// Namespace that a user must import, or "".
	Namespace string
}

// Symvers are the exports of one kernel build by symbol name, from Module.symvers.
type Symvers map[string]Export

// ParseSymvers reads a Module.symvers file: CRC, symbol, owner, kind and, since
// Linux 5.4, namespace, separated by tabs. Errors name the line.
func ParseSymvers(r io.Reader) (Symvers, error) {
	out := Symvers{}
	scan := bufio.NewScanner(r)
	for line := 1; scan.Scan(); line++ {
		e, err := parseExport(scan.Text())
		if err != nil {
			return nil, fmt.Errorf("parse Module.symvers: line %d: %w", line, err)
		}
		if was, twice := out[e.Name]; twice {
			return nil, fmt.Errorf("parse Module.symvers: line %d: %s is exported by %s already", line, e.Name, was.Owner)
		}
		out[e.Name] = e
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("parse Module.symvers: %w", err)
	}
	return out, nil
}

func parseExport(line string) (Export, error) {
	f := strings.Split(line, "\t")
	if len(f) < 4 || len(f) > 5 || f[1] == "" || f[2] == "" {
		return Export{}, fmt.Errorf("want 4 or 5 columns, found %d", len(f))
	}
	hex, ok := strings.CutPrefix(f[0], "0x")
	crc, err := strconv.ParseUint(hex, 16, 32)
	if !ok || err != nil {
		return Export{}, fmt.Errorf("CRC %q is not 32-bit hex", f[0])
	}
	e := Export{Name: f[1], CRC: uint32(crc), Owner: ModuleName(f[2])}
	switch f[3] {
	case "EXPORT_SYMBOL":
	case "EXPORT_SYMBOL_GPL":
		e.GPL = true
	default:
		return Export{}, fmt.Errorf("kind %q is not known", f[3])
	}
	if len(f) == 5 {
		e.Namespace = f[4]
	}
	return e, nil
}

// ModuleName is the name that the kernel knows a module by, from the path of
// its object or file: "fs/ext4/ext4.ko.xz" and "fs/ext4/ext4" give "ext4".
func ModuleName(path string) string {
	name := path[strings.LastIndexByte(path, '/')+1:]
	for _, ext := range []string{".xz", ".zst", ".gz", ".ko", ".o"} {
		name = strings.TrimSuffix(name, ext)
	}
	return strings.ReplaceAll(name, "-", "_")
}
