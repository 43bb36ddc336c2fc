package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// measuredRow is a row of a table in docs/relief.md.
type measuredRow struct{ requests, upstream int }

// readPage returns the rows of a homeserver's table, by "shape, phase, way".
func readPage(t *testing.T, homeserver string) map[string]measuredRow {
	t.Helper()
	page, err := os.ReadFile("../../../docs/relief.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "<!-- bench:begin relief-"+strings.ToLower(homeserver)+" -->")
	table, _, ended := strings.Cut(table, "<!-- bench:end -->")
	if !ok || !ended {
		t.Fatalf("the page has no table of %s", homeserver)
	}
	rows := make(map[string]measuredRow)
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 6 {
			continue
		}
		requests, _ := strconv.Atoi(strings.TrimSpace(cells[3]))
		upstream, err := strconv.Atoi(strings.TrimSpace(cells[4]))
		if err == nil {
			rows[strings.TrimSpace(cells[1])+", "+strings.TrimSpace(cells[2])] = measuredRow{requests, upstream}
		}
	}
	return rows
}

// imaginedRecording is a shape as clients play it, at the times of its schedule, and the spans of its phases.
func imaginedRecording(sh shape, s *scene) (rec *recording, spans []span) {
	rec = &recording{base: "way", begun: time.Unix(1_700_000_000, 0)}
	at := rec.begun
	versions := make(map[string]int)
	presences := make(map[string]string)
	add := func(r request) {
		line := recorded{request: r, sent: at.Add(r.at)}
		if r.kind == write {
			if r.change || versions[r.by.id] == 0 {
				versions[r.by.id]++
				presences[r.by.id] = r.presence
			}
			line.presence, line.statusMsg = presences[r.by.id], statusOf(versions[r.by.id], r.by.id)
		}
		rec.lines = append(rec.lines, line)
	}
	for _, r := range imaginedBefore(sh, s) {
		add(r)
	}
	for _, p := range sh.phases {
		at = at.Add(2 * time.Second)
		load := p.load(s)
		for _, r := range load {
			add(r)
		}
		end := at.Add(p.length(s.size) + 500*time.Millisecond)
		spans = append(spans, span{at, end})
		at = end
	}
	return rec, spans
}

// imaginedBefore is what a shape's before sends.
func imaginedBefore(sh shape, s *scene) (requests []request) {
	switch sh.key {
	case bridge.key:
		for _, g := range s.world.ghosts {
			requests = append(requests, request{kind: write, by: g, presence: "online", change: true})
		}
	case badTokens.key:
		for i := range badReaders {
			requests = append(requests, goodRead(s, i))
		}
	case storm.key:
		for _, l := range returned(s) {
			requests = append(requests, request{kind: read, by: l.by, of: l.of})
		}
	}
	return requests
}

// The full run that the page shows is what the simulation says of the same shapes: requests upstream within 5 %.
// It needs no homeserver. A device war is left out: how often its end was looked at depends on when it came; and
// so is a restless bridge: what it has left of its budgets depends on how long the run paused before.
func TestTheFullRunIsPredicted(t *testing.T) {
	for _, k := range homeservers {
		rows := readPage(t, k.name)
		compared := 0
		for _, sh := range []shape{roomOpen, popular, bridge, storm, nat, badTokens} {
			for _, w := range []way{byDefault, busyWay} {
				s := imagined("full", k)
				for _, g := range s.world.ghosts {
					g.ghost = true
				}
				s.way = w
				rec, spans := imaginedRecording(sh, s)
				each, err := rec.predict(s.world, profileOf(w), spans)
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range sh.phases {
					if p.name == "restless" {
						continue
					}
					title := Result{Shape: sh.name, Phase: p.name}.title()
					row, ok := rows[title+", "+w.name]
					if !ok {
						t.Errorf("%s: the page has no %s, %s", k.name, title, w.name)
						continue
					}
					compared++
					if said, was := float64(each[i].upstream), float64(row.upstream); said < was*(1-upstreamShare)-upstreamFew || said > was*(1+upstreamShare)+upstreamFew {
						t.Errorf("%s, %s, %s: %.0f of %d requests upstream were predicted, %.0f came", k.name, title, w.name, said, row.requests, was)
					}
				}
			}
		}
		if compared != 14 {
			t.Errorf("%s: only %d rows were compared", k.name, compared)
		}
	}
}
