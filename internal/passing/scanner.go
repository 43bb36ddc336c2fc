package passing

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"unicode/utf8"
)

// verdict is what a visitor wants of a value, and whether it wants any more.
type verdict int

const (
	skip  verdict = iota // nothing of it
	enter                // its members or elements; it must be an object or an array
	take                 // its text
	stop                 // nothing more of the whole answer
	fail                 // this is no answer of a homeserver
)

// visitor says which values of an answer it wants. Depth is how many objects and arrays a value is
// in: the answer's own members are at depth 1. A text is good until the call returns.
type visitor interface {
	// member is called for each member of an object that was entered.
	member(depth int, key []byte) verdict
	// element is called for each element of an array that was entered.
	element(depth int) verdict
	// value is called with the text of a value that was to be taken, unless that is too long.
	value(depth int, text []byte) verdict
	// end is called when an object or array ends whose members are at this depth.
	end(depth int) verdict
}

const (
	// maxDepth is how many objects and arrays may be entered at once.
	maxDepth = 8
	// maxNested is how many a value may have open that is skipped or taken.
	maxNested = 512
	// maxKey is the size in bytes of the largest key of an object that is entered. A user ID has
	// at most 255, and each may be escaped.
	maxKey = 2 << 10
	// maxTaken is the size of the largest value that is taken.
	maxTaken = 16 << 10
)

// scanner goes through an answer, which must be one JSON object. Of what it skips it only finds
// the end: a homeserver sends nothing but JSON. A key or value is looked at where it stands, and
// copied only if it comes in several pieces.
type scanner struct {
	visit  visitor
	state  state
	depth  int
	arrays [maxDepth + 1]bool // of what was entered, by depth
	wanted verdict            // of the value after a key

	text    []byte // what earlier pieces had of a key, or of a value that is taken
	taken   bool
	nested  int  // objects and arrays that a value has open
	quoted  bool // within a string
	escaped bool // after a backslash in one
	plain   bool // no backslash has been in it
}

// state is what a scanner expects next.
type state int

const (
	atStart   state = iota // the answer
	atFirst                // the first key or element, or the end
	atKey                  // a key
	inKey                  // the rest of it
	atColon                // the colon after it
	atValue                // its value
	atElement              // an element
	inValue                // the rest of a value
	inLiteral              // the rest of a number or a word
	atComma                // a comma, or the end
	atEnd                  // nothing
	stopped                // nothing more is wanted
	failed                 // nothing can be believed
)

// write goes on with the next bytes of the answer. It reports whether more are wanted.
func (s *scanner) write(p []byte) (more bool) {
	for i := 0; i < len(p) && s.state < stopped; {
		switch s.state {
		case inKey:
			i = s.readKey(p, i)
		case inValue:
			i = s.readValue(p, i)
		case inLiteral:
			i = s.readLiteral(p, i)
		default:
			if c := p[i]; isSpace(c) || s.read(c) {
				i++
			}
		}
	}
	return s.state < stopped
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// whole tells that the answer has ended as it should.
func (s *scanner) whole() bool { return s.state == atEnd }

// read looks at a byte between values, which is no space. It reports false if that is the first one
// of a value that is skipped or taken, and is to be looked at again as such.
func (s *scanner) read(c byte) (done bool) {
	array := s.arrays[s.depth]
	switch {
	case s.state == atStart:
		if s.begin(enter, c); s.arrays[s.depth] {
			s.state = failed
		}
	case s.state == atColon && c == ':':
		s.state = atValue
	case s.state == atValue:
		return s.begin(s.wanted, c)
	case (s.state == atFirst || s.state == atComma) && (array && c == ']' || !array && c == '}'):
		s.close()
	case array && (s.state == atFirst || s.state == atElement):
		return s.begin(s.visit.element(s.depth), c)
	case !array && (s.state == atFirst || s.state == atKey) && c == '"':
		s.beginKey()
	case s.state == atComma && c == ',' && array:
		s.state = atElement
	case s.state == atComma && c == ',':
		s.state = atKey
	default:
		s.state = failed
	}
	return true
}

// begin begins a value with its first byte. It reports whether that was entered.
func (s *scanner) begin(wanted verdict, c byte) (entered bool) {
	if s.obey(wanted); s.state >= stopped {
		return true
	}
	if wanted == enter {
		if s.depth++; c != '{' && c != '[' || s.depth > maxDepth {
			s.state, s.depth = failed, 0
			return true
		}
		s.state, s.arrays[s.depth] = atFirst, c == '['
		return true
	}
	s.state, s.nested, s.quoted, s.taken, s.text = inValue, 0, false, wanted == take, s.text[:0]
	switch {
	case c == '{' || c == '[' || c == '"':
	case c == '-' || '0' <= c && c <= '9' || c == 't' || c == 'f' || c == 'n':
		s.state = inLiteral
	default:
		s.state = failed
	}
	return false
}

// obey ends the scan if a verdict says so.
func (s *scanner) obey(v verdict) {
	switch v {
	case stop:
		s.state = stopped
	case fail:
		s.state = failed
	}
}

// close ends what was entered last.
func (s *scanner) close() {
	v := s.visit.end(s.depth)
	if s.depth--; s.depth == 0 {
		s.state = atEnd
	} else {
		s.state = atComma
	}
	s.obey(v)
}

// readString goes on within a string from p[i], and returns what follows what p has of it. The string
// ends there if quoted is false.
func (s *scanner) readString(p []byte, i int) int {
	if s.escaped {
		s.escaped = false
		i++
	}
	for i < len(p) {
		if i += lengthOfPlain(p[i:]); i == len(p) {
			return i
		}
		if p[i] == '"' {
			s.quoted = false
			return i + 1
		}
		s.plain = false
		if i+1 == len(p) {
			s.escaped = true
			return i + 1
		}
		i += 2
	}
	return i
}

// lengthOfPlain returns how many bytes there are before the first quote or backslash. It looks at
// eight at a time: strings are mostly short, so that a call of bytes.IndexByte for each of the two
// takes longer.
func lengthOfPlain(p []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(p); i += 8 {
		word := binary.LittleEndian.Uint64(p[i:])
		quote, escape := word^(ones*'"'), word^(ones*'\\')
		// A byte that is zero has its highest bit set here, and the first such bit is of one.
		if found := ((quote-ones)&^quote | (escape-ones)&^escape) & highs; found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for ; i < len(p) && p[i] != '"' && p[i] != '\\'; i++ {
	}
	return i
}

// readKey goes on with a key from p[i], and returns what follows what p has of it.
func (s *scanner) readKey(p []byte, i int) int {
	n := s.readString(p, i)
	if len(s.text)+n-i > maxKey {
		s.state = failed
		return n
	}
	key := p[i:n]
	if s.quoted || len(s.text) > 0 {
		s.text = append(s.text, key...)
		key = s.text
	}
	if s.quoted {
		return n
	}
	key, ok := unquote(key[:len(key)-1], s.plain)
	if !ok {
		s.state = failed
		return n
	}
	s.state = atColon
	s.wanted = s.visit.member(s.depth, key)
	s.obey(s.wanted)
	return s.readOn(p, n)
}

// readOn goes on after a key at p[i] for as long as what follows is as homeservers write it: a string,
// a comma and the next key's quote. It returns what follows. Everything else is for [scanner.write],
// which could do all of it: this is for speed.
func (s *scanner) readOn(p []byte, i int) int {
	if s.state != atColon || s.wanted == enter || i+2 >= len(p) || p[i] != ':' || p[i+1] != '"' {
		return i
	}
	s.begin(s.wanted, '"')
	s.quoted = true
	n := s.readString(p, i+2)
	if s.quoted {
		s.keep(p[i+1 : n])
		return n
	}
	if s.finish(p[i+1 : n]); s.state == atComma && n+1 < len(p) && p[n] == ',' && p[n+1] == '"' {
		s.beginKey()
		return n + 2
	}
	return n
}

// beginKey begins a key after its first quote.
func (s *scanner) beginKey() { s.state, s.text, s.quoted, s.plain = inKey, s.text[:0], true, true }

// readValue goes on with a value from p[i], and returns what follows what p has of it.
func (s *scanner) readValue(p []byte, i int) int {
	for n := i; n < len(p); {
		if s.quoted {
			n = s.readString(p, n)
		} else {
			switch p[n] {
			case '"':
				s.quoted = true
			case '{', '[':
				if s.nested++; s.nested > maxNested {
					s.state = failed
					return n
				}
			case '}', ']':
				s.nested--
			default:
				n++
				continue
			}
			n++
		}
		if s.nested == 0 && !s.quoted {
			s.finish(p[i:n])
			return n
		}
	}
	s.keep(p[i:])
	return len(p)
}

// readLiteral goes on with a number or a word.
func (s *scanner) readLiteral(p []byte, i int) int {
	for n := i; n < len(p); n++ {
		if c := p[n]; c == ',' || c == ']' || c == '}' || isSpace(c) {
			s.finish(p[i:n])
			return n
		}
	}
	s.keep(p[i:])
	return len(p)
}

// keep keeps a part of a value that is taken. One that is too long is skipped.
func (s *scanner) keep(part []byte) {
	if s.taken = s.taken && len(s.text)+len(part) <= maxTaken; s.taken {
		s.text = append(s.text, part...)
	}
}

// finish ends a value with its last part.
func (s *scanner) finish(part []byte) {
	s.state = atComma
	if !s.taken || len(s.text)+len(part) > maxTaken {
		return
	}
	if len(s.text) > 0 {
		s.text = append(s.text, part...)
		part = s.text
	}
	s.obey(s.visit.value(s.depth, part))
}

// unquote returns what stands between the quotes of a string, which is plain if it has no backslash.
// It reports false if that is not JSON. Whether what is plain is Unicode is for whoever keeps it.
func unquote(text []byte, plain bool) (content []byte, ok bool) {
	if plain {
		return text, true
	}
	if !utf8.Valid(text) {
		return nil, false
	}
	quoted := make([]byte, 0, len(text)+2)
	quoted = append(append(append(quoted, '"'), text...), '"')
	var decoded string
	if json.Unmarshal(quoted, &decoded) != nil {
		return nil, false
	}
	return []byte(decoded), true
}

// stringOf returns the content of a value that is a string.
func stringOf(text []byte) (content []byte, ok bool) {
	if len(text) < 2 || text[0] != '"' {
		return nil, false
	}
	return unquote(text[1:len(text)-1], bytes.IndexByte(text, '\\') < 0)
}
