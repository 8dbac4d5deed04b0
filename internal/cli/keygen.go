package cli

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"afloat/internal/bundle"
)

func newKeygen() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "keygen -o PATH",
		Short: "Make a publisher's key pair: PATH, which stays secret, and PATH.pub",
		Long: `Make an ed25519 key pair for a publisher of live patches. PATH holds the private
key, readable by its owner alone, and is what build signs with. PATH.pub is
pinned on the hosts when they join. The server needs neither.`,
		GroupID: "build",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := writeKeys(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s and %s.pub: publisher key %s\n", path, path, bundle.KeyID(key))
			return nil
		},
	}
	cmd.Flags().StringVarP(&path, "output", "o", "", "file for the private key (required)")
	if err := cmd.MarkFlagRequired("output"); err != nil {
		panic(err) // a flag that is not defined above
	}
	return cmd
}

// writeKeys makes both files, or neither; it never overwrites one.
func writeKeys(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	privatePEM, publicPEM, err := bundle.EncodeKeys(private)
	if err != nil {
		return nil, err
	}
	if err := createFile(path, privatePEM, 0o600); err != nil {
		return nil, err
	}
	if err := createFile(path+".pub", publicPEM, 0o644); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return public, nil
}

func createFile(path string, data []byte, mode os.FileMode) error {
	if path == "" {
		return withHint(errors.New("cannot write key: the path is empty"), "name a file with -o")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return withHint(fmt.Errorf("cannot write key: %s exists", path), "choose another path; a lost key cannot be made again")
	}
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write key: %w", err), os.Remove(path))
	}
	return nil
}
