package matrix

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
)

// WriteBody is the body of a write and what a homeserver makes of it. It is immutable.
type WriteBody struct {
	Text    []byte
	dialect Dialect
	read    bodyReading
}

// ReadWriteBody reads a body. What is certain of one for an unknown homeserver is so for all.
func ReadWriteBody(text []byte, d Dialect) WriteBody { return WriteBody{text, d, d.read(text)} }

// Certain is [TakesBody].
func (b WriteBody) Certain() bool { return b.read.taken == surelyTaken }

// Supersede returns the body with which b, the newest, leaves at the homeserver what all of
// these writes leave in order, if the first isn't sent, and the others of its user that
// came between are. It reports false if there is no such body for certain. All of them are
// certain.
//
// Only Dendrite keeps a status message that a write leaves out.
func (b WriteBody) Supersede(first WriteBody, between []WriteBody) (newest WriteBody, ok bool) {
	hasStatus := func(b WriteBody) bool { return b.read.Status != "" }
	if b.dialect == Synapse || b.dialect == Tuwunel || hasStatus(b) || !hasStatus(first) || slices.ContainsFunc(between, hasStatus) {
		return b, true
	}
	if b.dialect != Dendrite {
		return WriteBody{}, false
	}
	end := bytes.LastIndexByte(b.Text, '}')
	b.read.Status = first.read.Status
	b.Text = slices.Concat(b.Text[:end], []byte(`,"status_msg":`+b.read.Status), b.Text[end:]) // the last one counts
	return b, true
}

// Merges tells that what b leaves at the homeserver may depend on the write before it.
func (b WriteBody) Merges() bool {
	return b.dialect != Synapse && b.dialect != Tuwunel && b.read.Status == ""
}

// Fallback returns what is to be sent when the homeserver has not taken what b was given up
// for, and has taken the writes of other devices that came between: a body that leaves
// there what b and those leave in order. Of an unknown homeserver nobody knows.
//
//   - Synapse has a state of each device and one status message.
//   - Dendrite has one state and one message.
//   - tuwunel has both of each device.
func (b WriteBody) Fallback(between []WriteBody) WriteBody {
	if len(between) == 0 || b.dialect == Tuwunel || b.dialect == UnknownDialect {
		return b
	}
	last := between[len(between)-1].read
	if b.dialect == Synapse {
		b.read.Status = last.Status
	} else {
		b.read.State = last.State
		for _, other := range between {
			b.read.Status = cmp.Or(other.read.Status, b.read.Status)
		}
	}
	text := `{"presence":` + strconv.Quote(b.read.State.String())
	if b.read.Status != "" {
		text += `,"status_msg":` + b.read.Status
	}
	b.Text = []byte(text + "}")
	return b
}
