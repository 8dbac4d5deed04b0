package cli

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"afloat/internal/server"
	"afloat/internal/store"
)

func newBackup() *cobra.Command {
	var state, to, out string
	cmd := &cobra.Command{
		Use: "backup --to OPERATOR.pub -o FILE", Short: "Write the state directory, encrypted to an operator's key", GroupID: "run", Args: cobra.NoArgs,
		Long: `Writes everything in the state directory, the server's own keys included, into
one file that only the holder of the operator's private key can read. The
server must be stopped meanwhile; the hosts go on without it.`,
		RunE: func(*cobra.Command, []string) error { return backup(state, to, out) },
	}
	cmd.Flags().StringVar(&state, "state", defaultState(), "state directory")
	cmd.Flags().StringVar(&to, "to", "", "the operator's public key, as afloat backup keygen makes it (X25519, PEM)")
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write; it must not exist")
	_ = cmd.MarkFlagRequired("to")
	_ = cmd.MarkFlagRequired("output")
	cmd.AddCommand(newBackupKeygen())
	return cmd
}

func backup(state, to, out string) (err error) {
	key, err := readPEM(to, "PUBLIC KEY", func(der []byte) (any, error) { return x509.ParsePKIXPublicKey(der) })
	if err != nil {
		return err
	}
	public, ok := key.(*ecdh.PublicKey)
	if !ok {
		return withHint(fmt.Errorf("cannot encrypt to %s: it is no X25519 key", to), "afloat backup keygen -o PATH makes one")
	}
	dir, err := os.OpenRoot(state)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	defer dir.Close()
	lock, err := server.LockState(dir)
	if errors.Is(err, server.ErrRunning) {
		return withHint(err, "stop the server first: a copy of what is being written could not be relied on")
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := errors.Join(store.Backup(f, public, dir), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	return nil
}

func newBackupKeygen() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "keygen -o PATH", Short: "Make an operator's key pair for backups: PATH and PATH.pub", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			key, err := ecdh.X25519().GenerateKey(rand.Reader)
			if err != nil {
				return fmt.Errorf("make key: %w", err)
			}
			private, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				return fmt.Errorf("make key: %w", err)
			}
			public, err := x509.MarshalPKIXPublicKey(key.PublicKey())
			if err != nil {
				return fmt.Errorf("make key: %w", err)
			}
			if err := writePEM(out, "PRIVATE KEY", private, 0o600); err != nil {
				return err
			}
			if err := writePEM(out+".pub", "PUBLIC KEY", public, 0o644); err != nil {
				return errors.Join(err, os.Remove(out)) // both files or neither
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "file to write")
	_ = cmd.MarkFlagRequired("output")
	return cmd
}

func newRestore() *cobra.Command {
	var state, key string
	cmd := &cobra.Command{
		Use: "restore --key OPERATOR FILE", Short: "Make a state directory from a backup", GroupID: "run", Args: cobra.ExactArgs(1),
		Long: `Makes a new state directory from a backup. Start the server on it under the
same name: hosts that have moved on meanwhile are adopted as they are.`,
		RunE: func(_ *cobra.Command, args []string) error { return restore(state, key, args[0]) },
	}
	cmd.Flags().StringVar(&state, "state", defaultState(), "state directory to make; it must not exist, or be empty")
	cmd.Flags().StringVar(&key, "key", "", "the operator's private key")
	_ = cmd.MarkFlagRequired("key")
	return cmd
}

func restore(state, keyFile, file string) error {
	key, err := readPEM(keyFile, "PRIVATE KEY", x509.ParsePKCS8PrivateKey)
	if err != nil {
		return err
	}
	private, ok := key.(*ecdh.PrivateKey)
	if !ok {
		return withHint(fmt.Errorf("cannot decrypt with %s: it is no X25519 key", keyFile), "give the key that the backup was made for")
	}
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read backup: %w", err)
	}
	defer f.Close()
	if err := os.MkdirAll(state, 0o750); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) > 0 {
		return withHint(errors.Join(fmt.Errorf("cannot restore into %s: it is not empty", state), err), "give another --state, or move it away")
	}
	dir, err := os.OpenRoot(state)
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	defer dir.Close()
	return store.Restore(f, private, dir)
}

func readPEM(name, kind string, parse func([]byte) (any, error)) (any, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != kind {
		return nil, withHint(fmt.Errorf("cannot read key %s: no PEM block %q", name, kind), "afloat backup keygen -o PATH makes PATH and PATH.pub")
	}
	key, err := parse(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", name, err)
	}
	return key, nil
}

func writePEM(name, kind string, der []byte, mode os.FileMode) error {
	return createFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
