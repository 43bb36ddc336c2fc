package plan

import (
	"strings"
	"testing"
	"time"
)

// What can't be is refused, and the error names it.
func TestABadDescriptionIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*Load)
		says string
	}{
		{"nobody", func(l *Load) { l.Users = 0 }, "users"},
		{"less than nobody", func(l *Load) { l.Users = -5 }, "users"},
		{"too many", func(l *Load) { l.Users = MaxUsers + 1 }, "10000000"},
		{"more than all", func(l *Load) { l.Online = 1.5 }, "online"},
		{"no number", func(l *Load) { l.Online = nan() }, "online"},
		{"a person without a device", func(l *Load) { l.Devices = 0.5 }, "devices"},
		{"no time", func(l *Load) { l.SyncEvery = 0 }, "sync_every"},
		{"back in time", func(l *Load) { l.Poll = Duration(-time.Second) }, "poll"},
		{"a room that is larger than the server", func(l *Load) { l.Users = 40 }, "larger than the server"},
		{"a room of one", func(l *Load) { l.Rooms = []RoomKind{{1, 1}} }, "at least 2"},
		{"rooms that aren't there", func(l *Load) { l.Rooms = nil }, "there are none"},
		{"nothing to do", func(l *Load) { l.Online = 0 }, "nothing would be asked"},
		{"a bridge at rest", func(l *Load) { l.Bridges = []Bridge{{10, 0, 0}} }, "bridges"},
		{"changes without writes", func(l *Load) { l.Bridges = []Bridge{{10, Duration(time.Minute), Duration(time.Second)}} }, "no more often than it writes"},
		{"too many ghosts", func(l *Load) {
			l.Bridges = []Bridge{{MaxUsers, Duration(time.Minute), Duration(time.Hour)}, {1, Duration(time.Minute), Duration(time.Hour)}}
		}, "ghosts together"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := DefaultLoad()
			l.Users = 1000
			if err := l.Check(); err != nil {
				t.Fatalf("the default: %v", err)
			}
			tt.make(&l)
			if err := l.Check(); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want something about %q", err, tt.says)
			}
		})
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

func TestADescriptionIsReadFromAFile(t *testing.T) {
	l := DefaultLoad()
	err := l.ReadLoad(strings.NewReader(`{"users": 500, "poll": "20s", "rooms": [{"per_user": 2, "size": 30}],
		"bridges": [{"ghosts": 40, "every": "400ms", "change_every": "1m"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if l.Users != 500 || l.Poll != Duration(20*time.Second) || len(l.Rooms) != 1 || l.Ghosts() != 40 || l.Devices != DefaultLoad().Devices {
		t.Errorf("%+v", l)
	}
	for text, says := range map[string]string{
		`{"user": 500}`:                    "unknown field",
		`{"users": "many"}`:                "users",
		`{"poll": "soon"}`:                 "time span",
		`{"users": 1} {}`:                  "something follows",
		``:                                 "JSON object",
		strings.Repeat(" ", maxLoadFile+1): "larger than",
	} {
		if err := l.ReadLoad(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.20q: %v, want something about %q", text, err, says)
		}
	}
}

func FuzzReadLoad(f *testing.F) {
	f.Add(`{"users": 500, "rooms": [{"per_user": 2, "size": 30}]}`)
	f.Add(`{"bridges": [{"ghosts": 40, "every": "400ms", "change_every": "1m"}], "online": 1e400}`)
	f.Fuzz(func(t *testing.T, text string) {
		l := DefaultLoad()
		if l.ReadLoad(strings.NewReader(text)) == nil && l.Check() == nil {
			if rate := l.perSecond(); !(rate >= 0) {
				t.Errorf("%q makes %v requests a second", text, rate)
			}
		}
	})
}
