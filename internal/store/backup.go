package store

import (
	"archive/tar"
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// A backup is, in this order: the magic line, an ephemeral X25519 public key
// (32 bytes), then chunks of a tar of the state directory. Each chunk is its
// length (4 bytes, big endian, the highest bit set in the last one) and
// AES-256-GCM of at most chunkSize bytes, with the chunk's number and that
// length as additional data: chunks cannot be left out, moved or cut off.
const (
	backupMagic = "afloat-backup/1\n"
	chunkSize   = 1 << 20
	lastChunk   = 1 << 31
)

// ErrBackup says that a file is no backup, is damaged, or is for another key.
var ErrBackup = errors.New("backup cannot be read")

// Backup writes the state directory, encrypted to an operator's key. The
// server must not run: the caller holds the directory's lock.
func Backup(w io.Writer, to *ecdh.PublicKey, dir *os.Root) error {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	seal, err := backupCipher(ephemeral, to, ephemeral.PublicKey(), to)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if _, err := w.Write(append([]byte(backupMagic), ephemeral.PublicKey().Bytes()...)); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	chunks := &chunkWriter{w: w, seal: seal}
	buffered := bufio.NewWriterSize(chunks, chunkSize)
	if err := archive(buffered, dir); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := chunks.put(nil, true); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

// Restore unpacks a backup into an empty directory. Errors about the file
// wrap ErrBackup; after any error the directory is not fit for use.
func Restore(r io.Reader, key *ecdh.PrivateKey, dir *os.Root) error {
	head := make([]byte, len(backupMagic)+32)
	if _, err := io.ReadFull(r, head); err != nil || string(head[:len(backupMagic)]) != backupMagic {
		return fmt.Errorf("restore: %w: it does not begin as one", ErrBackup)
	}
	ephemeral, err := ecdh.X25519().NewPublicKey(head[len(backupMagic):])
	if err != nil {
		return fmt.Errorf("restore: %w: %w", ErrBackup, err)
	}
	open, err := backupCipher(key, ephemeral, ephemeral, key.PublicKey())
	if err != nil {
		return fmt.Errorf("restore: %w: %w", ErrBackup, err)
	}
	chunks := &chunkReader{r: r, open: open}
	if err := unpack(chunks, dir); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if _, err := io.Copy(io.Discard, chunks); err != nil { // to the mark of the end
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

func backupCipher(mine *ecdh.PrivateKey, other, ephemeral, to *ecdh.PublicKey) (cipher.AEAD, error) {
	shared, err := mine.ECDH(other)
	if err != nil {
		return nil, err
	}
	salt := append(ephemeral.Bytes(), to.Bytes()...)
	key, err := hkdf.Key(sha256.New, shared, salt, backupMagic, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// nonceOf is unique for each chunk, for the key is used for one backup only.
func nonceOf(n uint64, seal cipher.AEAD) []byte {
	nonce := make([]byte, seal.NonceSize())
	binary.BigEndian.PutUint64(nonce[len(nonce)-8:], n)
	return nonce
}

type chunkWriter struct {
	w    io.Writer
	seal cipher.AEAD
	n    uint64
}

// Write implements io.Writer.
func (c *chunkWriter) Write(p []byte) (int, error) {
	for part := range slicesOf(p, chunkSize) {
		if err := c.put(part, false); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (c *chunkWriter) put(p []byte, last bool) error {
	size := uint32(len(p) + c.seal.Overhead())
	if last {
		size |= lastChunk
	}
	head := binary.BigEndian.AppendUint32(nil, size)
	sealed := c.seal.Seal(nil, nonceOf(c.n, c.seal), p, head)
	c.n++
	_, err := c.w.Write(append(head, sealed...))
	return err
}

func slicesOf(p []byte, size int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 {
			n := min(size, len(p))
			if !yield(p[:n]) {
				return
			}
			p = p[n:]
		}
	}
}

type chunkReader struct {
	r    io.Reader
	open cipher.AEAD
	n    uint64
	left []byte
	end  bool
}

// Read implements io.Reader. It returns io.EOF only behind the chunk marked as the last.
func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.left) == 0 {
		if c.end {
			return 0, io.EOF
		}
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *chunkReader) next() error {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.r, head); err != nil {
		return fmt.Errorf("%w: it is cut off", ErrBackup)
	}
	size := binary.BigEndian.Uint32(head)
	c.end = size&lastChunk != 0
	size &^= lastChunk
	if size > chunkSize+uint32(c.open.Overhead()) {
		return fmt.Errorf("%w: chunk %d of %d bytes", ErrBackup, c.n, size)
	}
	sealed := make([]byte, size)
	if _, err := io.ReadFull(c.r, sealed); err != nil {
		return fmt.Errorf("%w: it is cut off", ErrBackup)
	}
	plain, err := c.open.Open(nil, nonceOf(c.n, c.open), sealed, head)
	if err != nil {
		return fmt.Errorf("%w: chunk %d is damaged, or the backup is for another key", ErrBackup, c.n)
	}
	c.n++
	c.left = plain
	return nil
}

// archive writes the regular files and folders of a state directory. The
// socket and the lock belong to a running server.
func archive(w io.Writer, dir *os.Root) error {
	out := tar.NewWriter(w)
	err := fs.WalkDir(dir.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." || !d.IsDir() && (!d.Type().IsRegular() || name == "lock") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		head, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		head.Name = name
		if err := out.WriteHeader(head); err != nil || d.IsDir() {
			return err
		}
		f, err := dir.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f)
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, out.Close())
}

func unpack(r io.Reader, dir *os.Root) error {
	in := tar.NewReader(r)
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch head.Typeflag {
		case tar.TypeDir:
			err = dir.MkdirAll(path.Clean(head.Name), 0o700)
		case tar.TypeReg:
			err = unpackFile(in, dir, head)
		default:
			err = fmt.Errorf("%w: %s is neither file nor folder", ErrBackup, head.Name)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(in io.Reader, dir *os.Root, head *tar.Header) error {
	f, err := dir.OpenFile(path.Clean(head.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, head.FileInfo().Mode().Perm()&0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	return errors.Join(err, f.Sync(), f.Close())
}
