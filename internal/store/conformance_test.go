package store_test

import (
	"log/slog"
	"os"
	"testing"

	"afloat/internal/enrol"
	"afloat/internal/store"
	"afloat/internal/store/storetest"
)

func TestEmbeddedConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *store.Store {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		identity, err := enrol.Load(root)
		if err != nil {
			t.Fatal(err)
		}
		e, err := store.Embed(store.EmbedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Identity: identity,
			TLS: identity.CA().TLS(nil), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		nc, err := e.Connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		s, err := store.Open(t.Context(), nc, store.Options{Replicas: 1, Bundles: root})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
