package snapshot

import (
	"bytes"
	"testing"
	"time"
)

var testMoment = Moment{Wall: 1_700_000_000_000_000_000, Up: time.Hour, Boot: [16]byte{1}}

func TestAFileIsReadAsItWasWritten(t *testing.T) {
	key, home := Key{1}, NewHome("cache", "example.com")
	b := encode(key, Budgets, home, testMoment, []byte("one"), nil, []byte("three"))
	at, sections, fault := decode(key, Budgets, home, b)
	if fault != nil || at != testMoment || len(sections) != 3 || string(sections[0]) != "one" || len(sections[1]) != 0 || string(sections[2]) != "three" {
		t.Errorf("%+v %q %v", at, sections, fault)
	}
}

func TestAFileThatCannotBeUsed(t *testing.T) {
	key, home := Key{1}, NewHome("cache", "example.com")
	good := encode(key, Budgets, home, testMoment, []byte("section"))
	changed := func(at int, by byte) []byte {
		b := bytes.Clone(good)
		b[at] ^= by
		return b
	}
	sealed := func(change func(b []byte)) []byte { // by somebody who has the key
		b := bytes.Clone(good[:len(good)-macSize])
		change(b)
		return append(b, mac(key, b)...)
	}
	for name, tc := range map[string]struct {
		b    []byte
		want *Fault
	}{
		"an empty file":              {nil, errCut},
		"what all begin with":        {good[:4], errCut},
		"something else":             {[]byte("#!/bin/sh\necho this is long enough to be something else than a snapshot, is it not\n"), errKind},
		"its beginning":              {good[:40], errCut},
		"all but the last byte":      {good[:len(good)-1], errCut},
		"a byte more":                {append(bytes.Clone(good), 0), errCut},
		"another version":            {changed(8, 1), errVersion},
		"identities":                 {encode(key, Identities, home, testMoment, []byte("section")), errKind},
		"a kind that was put in":     {changed(9, 3), errCut},
		"another key":                {encode(Key{2}, Budgets, home, testMoment, []byte("section")), errKey},
		"another key's name":         {changed(12, 1), errKey},
		"another cache's":            {encode(key, Budgets, NewHome("cache", "other.example.com"), testMoment, []byte("section")), errHome},
		"another moment":             {changed(52, 1), errCut},
		"another section":            {changed(headerSize+9, 1), errCut},
		"another checksum":           {changed(len(good)-1, 1), errCut},
		"a section that is too long": {sealed(func(b []byte) { b[headerSize] = 0xff }), errCut},
		"half a length":              {encodeTail(key, home, []byte{0, 0, 0}), errCut},
	} {
		if _, _, fault := decode(key, Budgets, home, tc.b); fault != tc.want {
			t.Errorf("%s: %v, want %v", name, fault, tc.want)
		}
	}
}

// encodeTail returns a file with something after its sections.
func encodeTail(key Key, home Home, tail []byte) []byte {
	b := encode(key, Budgets, home, testMoment, []byte("section"))
	b = append(b[:len(b)-macSize], tail...)
	return append(b, mac(key, b)...)
}

// Words of a home don't run together.
func TestHomesAreOfWords(t *testing.T) {
	if NewHome("a", "bc") == NewHome("ab", "c") || NewHome("a") == NewHome("a", "") {
		t.Error("two homes are one")
	}
}

func FuzzDecode(f *testing.F) {
	key, home := Key{1}, NewHome("a")
	f.Add(encode(key, Budgets, home, testMoment, []byte("one"), []byte("two")), false)
	f.Add(encode(key, Budgets, home, testMoment)[:headerSize], true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal {
			b = append(bytes.Clone(b), mac(key, b)...) // so that what is behind the checksum is tried too
		}
		at, sections, fault := decode(key, Budgets, home, b)
		if fault != nil {
			return
		}
		if again := encode(key, Budgets, home, at, sections...); !bytes.Equal(again, b) {
			t.Errorf("%x is read, and written as %x", b, again)
		}
	})
}

func TestHowLongAgo(t *testing.T) {
	then := Moment{Wall: 1000 * int64(time.Second), Up: time.Hour, Boot: [16]byte{1}}
	for name, tc := range map[string]struct {
		now         Moment
		least, most time.Duration
		ok          bool
	}{
		"both clocks agree": {Moment{then.Wall + int64(time.Minute), then.Up + time.Minute, then.Boot}, time.Minute - tick, time.Minute + tick, true},
		"the wall clock was set back a bit": {
			Moment{then.Wall + int64(time.Second), then.Up + time.Minute, then.Boot}, time.Second, time.Minute + tick, true,
		},
		"it was set forward": {Moment{then.Wall + int64(time.Hour), then.Up + time.Minute, then.Boot}, time.Minute - tick, time.Hour, true},
		"it was set back":    {Moment{then.Wall - 1, then.Up + time.Minute, then.Boot}, 0, 0, false},
		"the machine was started anew": {
			Moment{then.Wall + int64(time.Minute), time.Second, [16]byte{2}}, time.Minute, time.Minute, true,
		},
		"nothing is known of the machine": {Moment{Wall: then.Wall + int64(time.Minute)}, time.Minute, time.Minute, true},
	} {
		least, most, ok := tc.now.Since(then)
		if least != tc.least || most != tc.most || ok != tc.ok {
			t.Errorf("%s: %v, %v, %v, want %v, %v, %v", name, least, most, ok, tc.least, tc.most, tc.ok)
		}
	}
}
