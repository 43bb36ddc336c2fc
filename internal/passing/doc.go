// Package passing reads answers of homeservers while they pass, for what they say about who may
// see whom. It is given a copy of the bytes in whatever pieces they come, keeps none of them but
// the value that it is reading, and never holds more than a few kilobytes:
//
//   - scanner.go: goes through a JSON object and hands over the values that somebody wants;
//   - memberlist.go: who is joined to a room, by the answer to …/joined_members or …/members;
//   - syncanswer.go: the presences that a sync tells;
//   - unpack.go: answers that come with gzip, within bounds.
//
// A reader stops as soon as there is nothing left to find, and gives up on what no homeserver
// sends: other types, a member that is given twice, deep nesting, values without end. To give up
// costs what could have been learned, and nothing else.
//
// It knows nothing of HTTP servers and of what is made of what it finds.
package passing
