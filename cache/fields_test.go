package cache

import (
	"fmt"
	"reflect"
	"sync"
	"testing"
	"unsafe"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/testkit"
)

// shares reports whether two sets of fields are one piece of memory.
func shares(a, b []Field) bool { return unsafe.SliceData(a) == unsafe.SliceData(b) }

func TestEqualFieldsAreKeptOnce(t *testing.T) {
	var table fieldTable
	fields := func(value string) []Field {
		return []Field{{"Content-Type", []string{"application/json"}}, {"Vary", []string{"Origin", value}}}
	}
	first, again, other := table.intern(fields("a")), table.intern(fields("a")), table.intern(fields("b"))
	if !shares(first, again) {
		t.Error("equal fields are kept twice")
	}
	if shares(first, other) {
		t.Error("different fields are one")
	}
	if !reflect.DeepEqual(first, fields("a")) || !reflect.DeepEqual(other, fields("b")) {
		t.Errorf("the fields became %v and %v", first, other)
	}
	for _, different := range [][]Field{
		nil, fields("a")[:1], {fields("a")[1], fields("a")[0]},
		{{"Content-Type", []string{"application/json"}}, {"Vary", []string{"Origin"}}},
		{{"Content-Type", []string{"application/json"}}, {"vary", []string{"Origin", "a"}}},
		{{"Content-Type", []string{"application/json"}}, {"Vary", []string{"Origina"}}},
	} {
		if got := table.intern(different); shares(got, first) || len(got) != len(different) {
			t.Errorf("%v became %v", different, got)
		}
	}
}

func TestKeptFieldsDoNotAliasTheResponse(t *testing.T) {
	buffer := []byte("Content-Typeapplication/json")
	text := unsafe.String(&buffer[0], len(buffer)) // a string that a buffer's next use changes
	fields := []Field{{text[:12], []string{text[12:]}}}
	answer, err := ParseAnswer([]byte(`{"presence":"online"}`), fields)
	if err != nil {
		t.Fatal(err)
	}
	p, rules := newPresence(), &Rules{TTL: 100, ForbiddenTTL: 100}
	p.Allow("@v:hs", p.Depart("@a:hs", testkit.Epoch), answer, rules, testkit.Epoch)
	p.Deny("@v:hs", p.Depart("@b:hs", testkit.Epoch), &Denial{UntilWrite: true, Status: 403, Body: "{}", Fields: fields}, rules)
	clear(buffer)
	fields[0] = Field{"X", []string{"Y"}}

	want := []Field{{"Content-Type", []string{"application/json"}}}
	allowed, denied := p.Lookup("@v:hs", "@a:hs", rules, testkit.Epoch), p.Lookup("@v:hs", "@b:hs", rules, testkit.Epoch)
	if allowed.Outcome != Hit || !reflect.DeepEqual(allowed.Answer.Fields, want) {
		t.Errorf("an answer's fields became %+v", allowed)
	}
	if denied.Outcome != Denied || !reflect.DeepEqual(denied.Denial.Fields, want) {
		t.Errorf("a denial's fields became %+v", denied)
	}
	if allowed.Answer != nil && denied.Denial != nil && !shares(allowed.Answer.Fields, denied.Denial.Fields) {
		t.Error("equal fields of an answer and a denial are kept twice")
	}
}

func TestManyDifferentFieldsAreBounded(t *testing.T) {
	var table fieldTable
	var kept [][]Field
	for i := range 1000 {
		kept = append(kept, table.intern([]Field{{"X", []string{fmt.Sprint(i)}}}))
	}
	if len(table.sets) != internedFields {
		t.Errorf("%d sets are kept, want %d", len(table.sets), internedFields)
	}
	for i, fields := range kept { // those that were pushed out live on in their states
		if fields[0].Values[0] != fmt.Sprint(i) {
			t.Errorf("set %d became %v", i, fields)
		}
	}
	if !shares(kept[999], table.intern([]Field{{"X", []string{"999"}}})) {
		t.Error("the last set is not kept")
	}
}

func TestInternRace(t *testing.T) {
	var table fieldTable
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for i := range 2000 {
				value := fmt.Sprint(i % (internedFields + 4))
				if got := table.intern([]Field{{"X", []string{value}}}); len(got) != 1 || got[0].Values[0] != value {
					t.Errorf("%s became %v", value, got)
				}
			}
		})
	}
	workers.Wait()
}
