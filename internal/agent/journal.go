package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"afloat/internal/converge"

	"golang.org/x/sys/unix"
)

const (
	journalFile = "journal"
	lockFile    = "lock"
	// compactAt is the size in bytes at which the journal is folded into one line.
	compactAt = 256 << 10
)

// ErrJournal says that the journal on disk is damaged, so that nothing may be
// done that rests on it.
var ErrJournal = errors.New("journal is damaged")

// entry is one line of the journal: 8 hex digits, a blank, and this as JSON.
// The digits are the CRC-32C of the line before it (its 4 bytes, 0 for the
// first) and of the JSON, so that a lost line shows too.
type entry struct {
	Checkpoint *converge.Journal `json:"checkpoint,omitempty"`
	Record     *converge.Record  `json:"record,omitempty"`
}

// journal is the host's own record of what it was told and did. Daemon and
// local commands share it: each takes the lock for one step at a time.
type journal struct {
	dir   string
	state converge.Journal
	// What of the file is in state. Invariant: size is where a line ends.
	inode uint64
	mtime time.Time
	size  int64
	sum   uint32
}

// tx is the journal while its lock is held.
type tx struct {
	j    *journal
	file *os.File
}

// do calls f with the lock held and the journal read to its end.
func (j *journal) do(ctx context.Context, f func(*tx) error) (err error) {
	unlock, err := lock(ctx, filepath.Join(j.dir, lockFile))
	if err != nil {
		return fmt.Errorf("lock journal: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	file, err := os.OpenFile(filepath.Join(j.dir, journalFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	t := &tx{j: j, file: file}
	defer func() { err = errors.Join(err, t.file.Close()) }()
	if err := j.refresh(file); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	return f(t)
}

// refresh reads the file again if another process has written it.
func (j *journal) refresh(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	inode := inodeOf(info)
	if inode == j.inode && info.Size() == j.size && info.ModTime().Equal(j.mtime) {
		return nil
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	state, size, sum, err := readEntries(data)
	if err != nil {
		return err
	}
	if int64(size) < info.Size() { // a torn last line: it never counted
		if err := errors.Join(file.Truncate(int64(size)), file.Sync()); err != nil {
			return fmt.Errorf("cut torn tail: %w", err)
		}
	}
	if info, err = file.Stat(); err != nil {
		return err
	}
	j.state, j.inode, j.mtime, j.size, j.sum = state, inode, info.ModTime(), int64(size), sum
	return nil
}

// readEntries folds a journal file. A last line without its newline is torn by
// a crash and left out: size is where the good part ends. Any other damage is
// an error that wraps ErrJournal and names the line.
func readEntries(data []byte) (state converge.Journal, size int, sum uint32, err error) {
	number := 0
	for line := range bytes.Lines(data) {
		number++
		body, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok {
			break
		}
		next, nextSum, err := readEntry(state, sum, body, number == 1)
		if err != nil {
			return converge.Journal{}, 0, 0, fmt.Errorf("%w: line %d: %w", ErrJournal, number, err)
		}
		state, sum, size = next, nextSum, size+len(line)
	}
	return state, size, sum, nil
}

func readEntry(state converge.Journal, before uint32, line []byte, first bool) (converge.Journal, uint32, error) {
	digits, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(digits) != 8 {
		return state, 0, errors.New("no checksum")
	}
	want, err := hex.DecodeString(string(digits))
	if err != nil {
		return state, 0, errors.New("no checksum")
	}
	sum := lineSum(before, body)
	if binary.BigEndian.Uint32(want) != sum {
		return state, 0, errors.New("checksum does not match")
	}
	var e entry
	if err := json.Unmarshal(body, &e); err != nil {
		return state, 0, err
	}
	switch {
	case e.Checkpoint != nil && e.Record == nil && first:
		return *e.Checkpoint, sum, nil
	case e.Record != nil && e.Checkpoint == nil:
		next, err := state.Fold(*e.Record)
		return next, sum, err
	}
	return state, 0, errors.New("neither a record nor a first checkpoint")
}

func lineSum(before uint32, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(binary.BigEndian.AppendUint32(nil, before), table), table, body)
}

func encodeEntry(before uint32, e entry) ([]byte, uint32, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return nil, 0, err
	}
	sum := lineSum(before, body)
	return fmt.Appendf(nil, "%08x %s\n", sum, body), sum, nil
}

// state is what the journal adds up to.
func (t *tx) state() converge.Journal { return t.j.state }

// append makes a record durable. A record that cannot follow what is there is
// refused and not written.
func (t *tx) append(r converge.Record) error {
	r.Time = time.Now().UTC()
	next, err := t.j.state.Fold(r)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	line, sum, err := encodeEntry(t.j.sum, entry{Record: &r})
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if _, err := t.file.WriteAt(line, t.j.size); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := t.file.Sync(); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	info, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if t.j.size == 0 { // the file itself may be new
		if err := syncDir(t.j.dir); err != nil {
			return err
		}
	}
	t.j.state, t.j.sum, t.j.inode, t.j.mtime = next, sum, inodeOf(info), info.ModTime()
	t.j.size += int64(len(line))
	if t.j.size > compactAt {
		return t.compact()
	}
	return nil
}

// compact writes the journal anew as one checkpoint.
func (t *tx) compact() error {
	line, sum, err := encodeEntry(0, entry{Checkpoint: &t.j.state})
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	path := filepath.Join(t.j.dir, journalFile)
	if err := writeDurably(path, line, 0o600); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("compact journal: %w", err), file.Close())
	}
	old := t.file
	t.file, t.j.size, t.j.sum, t.j.inode, t.j.mtime = file, int64(len(line)), sum, inodeOf(info), info.ModTime()
	return old.Close()
}

// ReadJournal folds the journal in a state folder without changing it.
func ReadJournal(dir string) (converge.Journal, error) {
	data, err := os.ReadFile(filepath.Join(dir, journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return converge.Journal{}, nil
	}
	if err != nil {
		return converge.Journal{}, fmt.Errorf("read journal: %w", err)
	}
	state, _, _, err := readEntries(data)
	if err != nil {
		return converge.Journal{}, fmt.Errorf("read journal: %w", err)
	}
	return state, nil
}

// lock takes a lock that dies with the process. It is held for one step, so
// that waiting for it is short unless its holder hangs in the kernel.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-timer.C:
		}
	}
}
