package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Load describes what a server's clients do in its busiest hour. Rates are means.
type Load struct {
	// Users is how many accounts the server has, up to ten million.
	Users int `json:"users"`

	// Online is the share of them that is online at a time, from 0 to 1. Default: 0.2.
	Online float64 `json:"online"`

	// Devices is how many devices one has who is online, from 1 to 8. Default: 1.3.
	Devices float64 `json:"devices"`

	// Session is for how long somebody stays online. Default: 30m.
	Session Duration `json:"session"`

	// Rooms says in how many rooms a user is, by their sizes. Who shares a room sees each other.
	// Default: 10 of 5, 4 of 50 and 1 of 200 members.
	Rooms []RoomKind `json:"rooms"`

	// Opens is how many rooms a device that is online opens in an hour. Default: 6.
	Opens float64 `json:"opens_per_hour"`

	// Looks is how many members' presence a client asks for when it opens a room. Default: 50.
	Looks int `json:"looks"`

	// Poll is after which time it asks again, as long as the room is shown; with 0 it doesn't.
	// Default: 0. Shown is how long that is. Default: 2m.
	Poll  Duration `json:"poll"`
	Shown Duration `json:"shown"`

	// Lists is the share of openings with which the client gets the list of the room's members.
	// It matters with learn on. Default: 0.5.
	Lists float64 `json:"lists"`

	// Browsers is the share of devices that are browsers, which send a preflight before each read.
	// Default: 0.5.
	Browsers float64 `json:"browsers"`

	// Writes is how many PUTs of its presence a device makes in an hour. Default: 4. Changes is the
	// share of them that changes something. Default: 0.5.
	Writes  float64 `json:"writes_per_hour"`
	Changes float64 `json:"changes"`

	// SyncEvery is the time from one sync of a device to the next. Default: 15s. Idles is how often in an hour
	// one goes idle, or comes back, and says so by its next sync. Default: 4.
	SyncEvery Duration `json:"sync_every"`
	Idles     float64  `json:"idles_per_hour"`

	// Bridges write the presence of their ghosts. Default: none.
	Bridges []Bridge `json:"bridges"`
}

// RoomKind says that each user is in so many rooms of a size.
type RoomKind struct {
	PerUser float64 `json:"per_user"`
	Size    int     `json:"size"`
}

// Bridge is an appservice that writes for its users.
type Bridge struct {
	Ghosts int `json:"ghosts"`

	// Every is the time from one write of a ghost to the next. Changes is after which time one of them
	// says something new.
	Every   Duration `json:"every"`
	Changes Duration `json:"change_every"`
}

// MaxUsers is how many a server may have, bridges' included.
const MaxUsers = 10_000_000

// Duration is a time span that is written as "30s" in JSON.
type Duration time.Duration

// MarshalText writes it as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads it.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time span such as 30s", text)
	}
	*d = Duration(parsed)
	return nil
}

// DefaultLoad is what is assumed of a server if only the number of its users is known.
func DefaultLoad() Load {
	return Load{
		Bridges: []Bridge{},
		Online:  0.2, Devices: 1.3, Session: Duration(30 * time.Minute),
		Rooms: []RoomKind{{10, 5}, {4, 50}, {1, 200}},
		Opens: 6, Looks: 50, Shown: Duration(2 * time.Minute), Lists: 0.5, Browsers: 0.5,
		Writes: 4, Changes: 0.5, SyncEvery: Duration(15 * time.Second), Idles: 4,
	}
}

// maxLoadFile is the size in bytes of the largest description.
const maxLoadFile = 1 << 20

// ReadLoad reads a description in JSON. What it doesn't say stays.
func (l *Load) ReadLoad(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxLoadFile+1))
	if err != nil {
		return fmt.Errorf("reading the load: %w", err)
	}
	if len(text) > maxLoadFile {
		return fmt.Errorf("reading the load: it is larger than %d bytes; an access log or a metrics page is for --from", maxLoadFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(l); err != nil {
		return fmt.Errorf("reading the load: %w; it is a JSON object such as {\"users\": 20000, \"online\": 0.2}", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("reading the load: something follows the JSON object")
	}
	return nil
}

// Check returns what is wrong with a description, and what to do about it.
func (l *Load) Check() error {
	switch {
	case l.Users < 1 || l.Users > MaxUsers:
		return fmt.Errorf("users: there must be 1 to %d, not %d", MaxUsers, l.Users)
	case l.Ghosts() > MaxUsers:
		return fmt.Errorf("bridges: they may have %d ghosts together, not %d", MaxUsers, l.Ghosts())
	}
	for _, number := range []struct {
		name        string
		is          float64
		least, most float64
	}{
		{"online", l.Online, 0, 1}, {"devices", l.Devices, 1, 8}, {"lists", l.Lists, 0, 1}, {"browsers", l.Browsers, 0, 1}, {"changes", l.Changes, 0, 1},
		{"opens_per_hour", l.Opens, 0, 3600}, {"looks", float64(l.Looks), 0, 100_000}, {"writes_per_hour", l.Writes, 0, 360_000}, {"idles_per_hour", l.Idles, 0, 3600},
		{"session in seconds", l.Session.seconds(), 1, 1e6}, {"sync_every in seconds", l.SyncEvery.seconds(), 0.1, 3600}, {"shown in seconds", l.Shown.seconds(), 0, 86400},
	} {
		if !(number.is >= number.least && number.is <= number.most) { // not a number is neither
			return fmt.Errorf("%s: must be %v to %v, not %v", number.name, number.least, number.most, number.is)
		}
	}
	if l.Poll != 0 && l.Poll.seconds() < 0.1 {
		return fmt.Errorf("poll: must be 0 for never, or at least 100ms, not %v", time.Duration(l.Poll))
	}
	return errors.Join(l.checkRooms(), l.checkBridges(), l.checkAsked())
}

func (l *Load) checkRooms() error {
	for _, r := range l.Rooms {
		switch {
		case r.Size < 2 || !(r.PerUser > 0 && r.PerUser <= 1000):
			return fmt.Errorf("rooms: a room has at least 2 members, and a user is in more than 0 and up to 1000 of a size, not in %v of %d", r.PerUser, r.Size)
		case r.Size > l.Users+l.Ghosts():
			return fmt.Errorf("rooms: a room of %d members is larger than the server, which has %d users: give the number of users with all bridges', or a smaller room", r.Size, l.Users+l.Ghosts())
		}
	}
	if len(l.Rooms) == 0 && l.Opens > 0 && l.Looks > 0 {
		return errors.New("rooms: there are none, but clients open some: give rooms, or opens_per_hour 0")
	}
	return nil
}

func (l *Load) checkBridges() error {
	for _, b := range l.Bridges {
		if b.Ghosts < 1 || b.Every.seconds() < 0.01 || b.Changes < b.Every {
			return fmt.Errorf("bridges: one has at least 1 ghost, writes each 10ms at most, and changes no more often than it writes; not %d ghosts, a write each %v, a change each %v",
				b.Ghosts, time.Duration(b.Every), time.Duration(b.Changes))
		}
	}
	return nil
}

func (l *Load) checkAsked() error {
	if l.Online == 0 && len(l.Bridges) == 0 {
		return errors.New("online: nobody is, and there is no bridge: nothing would be asked")
	}
	return nil
}

func (d Duration) seconds() float64 { return time.Duration(d).Seconds() }

// Ghosts is how many users all bridges have.
func (l *Load) Ghosts() (n int) {
	for _, b := range l.Bridges {
		n += b.Ghosts
	}
	return n
}

// largestRoom is how many members it has.
func (l *Load) largestRoom() (n int) {
	for _, r := range l.Rooms {
		n = max(n, r.Size)
	}
	return n
}

// perSecond is about how many requests all clients make in a second.
func (l *Load) perSecond() float64 {
	rounds, looks := 1.0, 0.0
	if l.Poll > 0 {
		rounds += l.Shown.seconds() / l.Poll.seconds()
	}
	rooms := 0.0
	for _, r := range l.Rooms {
		rooms += r.PerUser
		looks += r.PerUser * float64(min(l.Looks, r.Size-1))
	}
	if rooms > 0 {
		looks /= rooms
	}
	device := l.Opens/3600*(looks*rounds*(1+l.Browsers)+l.Lists) + l.Writes/3600 + 1/l.SyncEvery.seconds()
	rate := float64(l.Users) * l.Online * l.Devices * device
	for _, b := range l.Bridges {
		rate += float64(b.Ghosts) / b.Every.seconds()
	}
	return rate
}
