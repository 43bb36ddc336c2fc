package passing

import (
	"bytes"
	"encoding/json"
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
	// at most 255, each of which may be escaped.
	maxKey = 2 << 10
	// maxTaken is the size of the largest value that is taken.
	maxTaken = 16 << 10
)

// scanner goes through an answer, which must be one JSON object. Of what it skips it only finds
// the end: a homeserver sends nothing but JSON.
type scanner struct {
	visit  visitor
	state  state
	depth  int
	arrays [maxDepth + 1]bool // of what was entered, by depth
	wanted verdict            // of the value after a key

	text    []byte // of a key, or of a value that is taken
	taken   bool
	nested  int  // objects and arrays that a value has open
	quoted  bool // within a string
	escaped bool // after a backslash in one
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
	for len(p) > 0 && s.state < stopped {
		switch s.state {
		case inKey:
			p = s.readKey(p)
		case inValue:
			p = s.readValue(p)
		case inLiteral:
			p = s.readLiteral(p)
		default:
			c := p[0]
			if p = p[1:]; !isSpace(c) {
				s.read(c)
			}
		}
	}
	return s.state < stopped
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// whole tells that the answer has ended as it should.
func (s *scanner) whole() bool { return s.state == atEnd }

// read goes on with a byte between values, which is no space.
func (s *scanner) read(c byte) {
	array := s.arrays[s.depth]
	switch {
	case s.state == atStart:
		s.begin(enter, c)
		if array = s.arrays[s.depth]; array {
			s.state = failed
		}
	case s.state == atColon && c == ':':
		s.state = atValue
	case s.state == atValue:
		s.begin(s.wanted, c)
	case (s.state == atFirst || s.state == atComma) && (array && c == ']' || !array && c == '}'):
		s.close()
	case array && (s.state == atFirst || s.state == atElement):
		s.begin(s.visit.element(s.depth), c)
	case !array && (s.state == atFirst || s.state == atKey) && c == '"':
		s.state, s.text = inKey, s.text[:0]
	case s.state == atComma && c == ',' && array:
		s.state = atElement
	case s.state == atComma && c == ',':
		s.state = atKey
	default:
		s.state = failed
	}
}

// begin begins a value with its first byte.
func (s *scanner) begin(wanted verdict, c byte) {
	if s.obey(wanted); s.state >= stopped {
		return
	}
	if wanted == enter {
		if s.depth++; c != '{' && c != '[' || s.depth > maxDepth {
			s.state, s.depth = failed, 0
			return
		}
		s.state, s.arrays[s.depth] = atFirst, c == '['
		return
	}
	s.state, s.nested, s.quoted = inValue, 0, false
	switch {
	case c == '{' || c == '[':
		s.nested = 1
	case c == '"':
		s.quoted = true
	case c == '-' || '0' <= c && c <= '9' || c == 't' || c == 'f' || c == 'n':
		s.state = inLiteral
	default:
		s.state = failed
	}
	if s.taken = wanted == take; s.taken {
		s.text = append(s.text[:0], c)
	}
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

// readString goes on within a string, and returns how many bytes of p belong to it. It ends there
// if quoted is false.
func (s *scanner) readString(p []byte) (n int) {
	for n < len(p) {
		if s.escaped {
			s.escaped = false
			n++
			continue
		}
		end := bytes.IndexByte(p[n:], '"')
		if end < 0 {
			end = len(p) - n
		}
		if escape := bytes.IndexByte(p[n:n+end], '\\'); escape >= 0 {
			s.escaped = true
			n += escape + 1
			continue
		}
		if n += end; n < len(p) {
			s.quoted = false
			return n + 1
		}
	}
	return n
}

func (s *scanner) readKey(p []byte) (rest []byte) {
	s.quoted = true
	n := s.readString(p)
	if s.text = append(s.text, p[:n]...); len(s.text) > maxKey {
		s.state = failed
		return nil
	}
	if s.quoted {
		return nil
	}
	key, ok := unquote(s.text[:len(s.text)-1])
	if !ok {
		s.state = failed
		return nil
	}
	s.state = atColon
	s.wanted = s.visit.member(s.depth, key)
	s.obey(s.wanted)
	return p[n:]
}

func (s *scanner) readValue(p []byte) (rest []byte) {
	n := 0
	for n < len(p) {
		if s.quoted {
			n += s.readString(p[n:])
		} else {
			switch p[n] {
			case '"':
				s.quoted = true
			case '{', '[':
				if s.nested++; s.nested > maxNested {
					s.state = failed
					return nil
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
			s.finish(p[:n])
			return p[n:]
		}
	}
	s.keep(p)
	return nil
}

func (s *scanner) readLiteral(p []byte) (rest []byte) {
	for n, c := range p {
		if c == ',' || c == ']' || c == '}' || isSpace(c) {
			s.finish(p[:n])
			return p[n:]
		}
	}
	s.keep(p)
	return nil
}

// keep takes a part of a value. One that is too long is skipped.
func (s *scanner) keep(part []byte) {
	if s.taken = s.taken && len(s.text)+len(part) <= maxTaken; s.taken {
		s.text = append(s.text, part...)
	}
}

// finish ends a value with its last part.
func (s *scanner) finish(part []byte) {
	s.state = atComma
	if s.keep(part); s.taken {
		s.obey(s.visit.value(s.depth, s.text))
	}
}

// unquote returns what stands between the quotes of a string. It reports false if that is not
// JSON or not Unicode.
func unquote(text []byte) (content []byte, ok bool) {
	if !utf8.Valid(text) {
		return nil, false
	}
	if bytes.IndexByte(text, '\\') < 0 {
		return text, true
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
	return unquote(text[1 : len(text)-1])
}
