package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kmsg follows /dev/kmsg, from the oldest line that the kernel still has.
type Kmsg struct{ Path string }

// Follow calls each with every line until ctx ends. Lines that the kernel
// overwrote before they were read are lost.
func (k Kmsg) Follow(ctx context.Context, each func(Line)) error {
	f, err := os.OpenFile(k.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("follow kernel log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Now()) })
	defer stop()
	err = readKmsg(f, each)
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func readKmsg(f *os.File, each func(Line)) error {
	buf := make([]byte, 8192) // one record: at most 1024 bytes of text, escaped
	for {
		n, err := f.Read(buf)
		switch {
		case errors.Is(err, unix.EPIPE): // overwritten while it was read: go on with the oldest
			continue
		case err != nil:
			return fmt.Errorf("follow kernel log: %w", err)
		}
		if l, ok := parseKmsg(buf[:n]); ok {
			each(l)
		}
	}
}

// parseKmsg reads "priority,sequence,microseconds,flags[,...];text\n" and
// leaves out what userspace wrote: only the kernel may testify against itself.
func parseKmsg(record []byte) (Line, bool) {
	head, rest, ok := bytes.Cut(record, []byte(";"))
	fields := strings.Split(string(head), ",")
	if !ok || len(fields) < 4 {
		return Line{}, false
	}
	priority, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || priority>>3 != 0 { // facility 0 is the kernel
		return Line{}, false
	}
	usec, err := strconv.ParseUint(fields[2], 10, 53)
	if err != nil {
		return Line{}, false
	}
	text, _, _ := bytes.Cut(rest, []byte("\n"))
	return Line{Since: time.Duration(usec) * time.Microsecond, Text: string(text)}, true
}
