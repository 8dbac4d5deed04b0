package cli

import "testing"

func TestProgramDigest(t *testing.T) {
	first, err := programDigest()
	if err != nil {
		t.Fatal(err)
	}
	second, err := programDigest()
	if err != nil || len(first) != 12 || first != second {
		t.Errorf("%q, then %q, %v", first, second, err)
	}
}
