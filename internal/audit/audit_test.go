package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

func chain(t interface{ Fatal(...any) }, n int) []Record {
	var head Head
	var out []Record
	for i := range n {
		r, err := Chain(head, Entry{
			Who: Actor{Kind: ActorOperator, Name: "root", Role: "admin", UID: new(uint32(0))}, What: "bundle.add",
			Target: fmt.Sprintf("b%d", i), When: start.Add(time.Duration(i) * time.Second), Outcome: Done,
		})
		if err != nil {
			t.Fatal(err)
		}
		out, head = append(out, r), r.Head()
	}
	return out
}

func TestVerifyAcceptsWhatChainMade(t *testing.T) {
	records := chain(t, 5)
	head, err := Verify(records)
	if err != nil {
		t.Fatal(err)
	}
	if head != records[4].Head() {
		t.Errorf("head %+v, want that of record 5", head)
	}
}

func TestRecordSurvivesJSON(t *testing.T) {
	records := chain(t, 2)
	data, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	var back []Record
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(back); err != nil {
		t.Error(err)
	}
}

func TestTampering(t *testing.T) {
	for _, tc := range []struct {
		name   string
		tamper func([]Record) []Record
	}{
		{"changed reason", func(r []Record) []Record { r[2].Reason = "because"; return r }},
		{"changed actor", func(r []Record) []Record { r[2].Who.UID = new(uint32(1000)); return r }},
		{"changed time", func(r []Record) []Record { r[2].When = r[2].When.Add(1); return r }},
		{"changed and hashed again", func(r []Record) []Record {
			r[2].Reason = "because"
			r[2].Hash, _ = r[2].sum()
			return r
		}},
		{"record left out", func(r []Record) []Record { return slices.Delete(r, 2, 3) }},
		{"first left out", func(r []Record) []Record { return r[1:] }},
		{"two swapped", func(r []Record) []Record { r[1], r[2] = r[2], r[1]; return r }},
		{"one twice", func(r []Record) []Record { return slices.Insert(r, 2, r[1]) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Verify(tc.tamper(chain(t, 5))); !errors.Is(err, ErrBroken) {
				t.Errorf("err = %v, want ErrBroken", err)
			}
		})
	}
}

func TestAnyChangedByteIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := chain(t, 3)
		i := rapid.IntRange(0, 2).Draw(t, "record")
		data, err := json.Marshal(records[i])
		if err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(t, "byte")
		data[at] ^= 1 << rapid.IntRange(0, 6).Draw(t, "bit")
		var changed Record
		if json.Unmarshal(data, &changed) != nil {
			return // no longer a record at all
		}
		again, err := json.Marshal(changed)
		if err != nil {
			return
		}
		if was, _ := json.Marshal(records[i]); string(again) == string(was) {
			return // the flip was in the name's letter case or the like: same record
		}
		records[i] = changed
		if _, err := Verify(records); !errors.Is(err, ErrBroken) {
			t.Fatalf("changed record %s verified: %v", again, err)
		}
	})
}

func TestChainRefusesIncompleteEntries(t *testing.T) {
	for _, e := range []Entry{
		{What: "x", Outcome: Done},
		{Who: Actor{Kind: ActorServer}, Outcome: Done},
		{Who: Actor{Kind: ActorServer}, What: "x"},
	} {
		if _, err := Chain(Head{}, e); err == nil {
			t.Errorf("entry %+v was chained", e)
		}
	}
}

func TestForeignTextStillVerifies(t *testing.T) {
	r, err := Chain(Head{}, Entry{Who: Actor{Kind: ActorStranger, Name: "\xff\xfe"}, What: "host.join",
		Outcome: Refused, Reason: strings.Repeat("é", 2000)})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if _, err := Follow(Head{}, back); err != nil {
		t.Error(err)
	}
	if len(back.Reason) > maxText+8 {
		t.Errorf("reason of %d bytes was kept", len(back.Reason))
	}
}
