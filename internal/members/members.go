// Package members finds the members of a JSON object in its text, without making
// anything of them.
package members

import (
	"encoding/json"
	"iter"
	"strings"
)

// Span is where a value stands in a text: from Start up to End.
type Span struct{ Start, End int }

// Of returns the members of a JSON object by their decoded keys, and where
// their values stand. The text must be valid JSON; if it is no object there
// are none.
//
// encoding/json can do this too, by a Decoder's tokens and offsets: with 45
// allocations for a presence, a third of what a miss added to reverse_proxy. Or into
// a map, which takes sixteen times as much memory as an object of many members.
func Of(text string) iter.Seq2[string, Span] {
	return func(yield func(string, Span) bool) {
		i := skipSpace(text, 0)
		if text[i] != '{' {
			return
		}
		for i = skipSpace(text, i+1); text[i] != '}'; i = skipSpace(text, i) {
			if text[i] == ',' {
				i = skipSpace(text, i+1)
			}
			keyEnd := skipString(text, i)
			key := text[i+1 : keyEnd-1]
			if strings.Contains(key, "\\") {
				key = decoded(text[i:keyEnd])
			}
			start := skipSpace(text, skipSpace(text, keyEnd)+1) // past the colon
			i = skipValue(text, start)
			if !yield(key, Span{start, i}) {
				return
			}
		}
	}
}

// decoded returns what a JSON string says.
func decoded(text string) (s string) {
	_ = json.Unmarshal([]byte(text), &s) // it is valid
	return s
}

func skipSpace(text string, i int) int {
	for text[i] == ' ' || text[i] == '\t' || text[i] == '\n' || text[i] == '\r' {
		i++
	}
	return i
}

// skipString returns the end of the string that begins at i.
func skipString(text string, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the end of the value that begins at i.
func skipValue(text string, i int) int {
	for depth := 0; ; {
		switch text[i] {
		case '"':
			i = skipString(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			i += max(1, strings.IndexAny(text[i:], ",]} \t\n\r\"{["))
		}
		if depth == 0 {
			return i
		}
	}
}
