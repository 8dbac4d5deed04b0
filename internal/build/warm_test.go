package build

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"
	"time"

	"afloat/internal/kbuild"
	"afloat/internal/kit/kittest"
)

// A build whose objects the cache holds starts neither make nor the compiler.
func TestWarmBuildCompilesNothing(t *testing.T) {
	k := kittest.Open(t, testKernel)
	if _, err := kbuild.LoadIndex(t.Context(), k, nil); err != nil {
		t.Fatal(err)
	}
	diff := `--- a/fs/proc/version.c
+++ b/fs/proc/version.c
@@ -13,6 +13,7 @@ static int version_proc_show(struct seq_file *m, void *v)
 		utsname()->sysname,
 		utsname()->release,
 		utsname()->version);
+	seq_puts(m, "warm\n");
 	return 0;
 }
 
`
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Kit: k, Name: "warm", Key: key, WorkDir: t.TempDir(), Now: time.Unix(1e9, 0), Patches: []Input{{"warm.patch", []byte(diff)}}}
	cold, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	said := filepath.Join(bin, "said")
	for _, tool := range []string{"make", "gcc", k.Compiler, "cc", "ld"} {
		if err := os.WriteFile(filepath.Join(bin, tool), []byte("#!/bin/sh\necho $0 >>"+said+"\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	warm, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if ran, err := os.ReadFile(said); err == nil {
		t.Errorf("a warm build ran %s", ran)
	}
	if string(cold.Module) != string(warm.Module) {
		t.Error("the same build made another module")
	}
}
