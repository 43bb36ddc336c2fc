package survival_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/redisserver"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/scripted"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// remembering is a configuration in which nothing is forgotten during a test.
const remembering = `write_limit off
		read_limit off
		cache {
			ttl 1h
			settle 0
		}
		identity {
			ttl 1h
		}`

// otherwise is another one, with other sizes, limits and lifetimes.
const otherwise = `write_limit 1000000/1s
		read_limit 1000000/1s
		max_body 32KiB
		cache {
			ttl 2h
			settle 0
			states 50000
			permissions 200000
			stale_if_error 1m
		}
		identity {
			tokens 5000
			ttl 2h
		}`

func TestReloadAnswersEveryRequestUnderWay(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 6)
	s := newServer(t, hs, remembering)
	gate, answers := everyRequestUnderWay(t, s, users)
	s.reload(otherwise)
	gate.Open()
	for what, answer := range answers {
		expect(t, what, <-answer, http.StatusOK)
	}
	if a := s.read(users[1].token, users[4].id).get(t); !a.hit() {
		t.Errorf("what was fetched under the old configuration is not remembered: %s", a)
	}
}

// A reader of the new configuration waits for the answer that one of the old has asked for.
func TestReadersShareAnAnswerAcrossAReload(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 2)
	alice, bob := users[0], users[1]
	s := newServer(t, hs, remembering)
	expect(t, "the first read", s.read(alice.token, alice.id).get(t), http.StatusOK)

	asked := hs.Count(scripted.Read).Asked
	gate := hs.Hold(func(r *http.Request) bool { return r.Method == http.MethodGet })
	first := s.read(alice.token, bob.id).later(t.Context())
	suite.Eventually(t, "the read is at the homeserver", func() bool { return gate.Waiting() == 1 })
	s.reload(otherwise)
	second := make(chan answer)
	go func() { second <- s.read(alice.token, bob.id).insist(t.Context(), fresh) }()
	// The first belongs to the old configuration.
	suite.Eventually(t, "the second read is accepted", func() bool { return s.vitals().InFlight == 1 })
	gate.Open()
	expect(t, "the first", <-first, http.StatusOK)
	expect(t, "the second", <-second, http.StatusOK)
	if got := hs.Count(scripted.Read).Asked - asked; got != 1 {
		t.Errorf("the homeserver was asked %d times, want once", got)
	}
}

// The fence of a write that began under the old configuration holds under the new one.
func TestWriteUnderWayAcrossAReload(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 2)
	alice, bob := users[0], users[1]
	s := newServer(t, hs, remembering)
	expect(t, "a first write", s.write(alice.token, alice.id, 1).get(t), http.StatusOK)
	for range 2 {
		expect(t, "a first read", s.read(bob.token, alice.id).get(t), http.StatusOK)
	}

	gate := hs.Hold(func(r *http.Request) bool { return r.Method == http.MethodPut })
	write := s.write(alice.token, alice.id, 2).later(t.Context())
	suite.Eventually(t, "the write is at the homeserver", func() bool { return gate.Waiting() == 1 })
	s.reload(otherwise)
	for range 3 {
		if a := s.read(bob.token, alice.id).get(t); a.version() != 1 || a.hit() {
			t.Errorf("during the write a read got %s, want version 1 from the homeserver", a)
		}
	}
	gate.Open()
	expect(t, "the write", <-write, http.StatusOK)
	for i := range 3 {
		if a := s.read(bob.token, alice.id).get(t); a.version() != 2 || a.hit() != (i > 0) {
			t.Errorf("read %d after the write got %s, want version 2", i, a)
		}
	}
}

func TestReloadsUnderLoadLoseNothing(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{Hidden: hides})
	s := newServer(t, hs, remembering)
	c := gather(t, s, 32)
	c.busy(300)
	for i := range scale.busy {
		s.reload([]string{otherwise, remembering}[i%2])
		c.busy(150)
	}
	c.disperse()
	requests, unaccepted := c.account()
	// Whose tokens these are, two of each person, is remembered through all of them.
	if got, tokens := hs.Count(scripted.WhoAmI).Asked, 2*32; got > tokens {
		t.Errorf("the homeserver was asked whose token it is %d times, want once for each of %d at most", got, tokens)
	}
	figure(t, "%d reloads under 32 clients: %d requests, %d writes acknowledged and none lost, every accepted request answered; %d were not accepted, and did nothing",
		scale.busy, requests, c.writes(), unaccepted)
}

// bounds of what many reloads may leave behind. A configuration that leaks takes some
// hundred kilobytes and a dozen goroutines, each time.
const (
	spareGoroutines  = 5
	spareDescriptors = 5
	spareHeap        = 3 << 20
)

func TestReloadsLeakNothing(t *testing.T) {
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 20)
	s := newServer(t, hs, remembering)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	kept := &http.Client{Transport: new(http.Transport)}
	defer kept.CloseIdleConnections()

	// Each configuration is used: what leaks may be made by the first request.
	use := func(i int) {
		t.Helper()
		u := users[i%len(users)]
		a := expect(t, "a read", s.read(u.token, users[0].id).insist(ctx, kept), http.StatusOK)
		if i >= len(users) && !a.hit() {
			t.Errorf("after %d reloads a read is no hit any more: %s", i, a)
		}
		expect(t, "a request that is not ours", s.pass("body").get(t), http.StatusOK)
		// Nobody reads this one, so that nothing of what is read is dropped.
		last := users[len(users)-1]
		expect(t, "a write", s.write(last.token, last.id, int64(i+1)).insist(ctx, kept), http.StatusOK)
	}
	n := 0
	round := func() {
		s.reload([]string{otherwise, remembering}[n%2])
		use(n)
		n++
	}
	// settled polls until the connections of the last configurations are closed.
	settled := func() (goroutines, descriptors int, heap int64) {
		t.Helper()
		kept.CloseIdleConnections()
		lowest := func() bool {
			v := s.vitals()
			better := goroutines == 0 || v.Goroutines < goroutines || v.Descriptors < descriptors
			if better {
				goroutines, descriptors = v.Goroutines, v.Descriptors
			}
			return !better
		}
		for still := 0; still < 20; time.Sleep(20 * time.Millisecond) {
			if still++; !lowest() {
				still = 0
			}
		}
		return goroutines, descriptors, s.liveHeap()
	}
	for range 2 * len(users) {
		round()
	}
	goroutines, descriptors, heap := settled()
	begin, reported := time.Now(), time.Now()
	for i := range scale.reloads {
		round()
		if time.Since(reported) > 10*time.Second {
			reported = time.Now()
			fmt.Printf("… %d of %d reloads\n", i+1, scale.reloads)
		}
	}
	took := time.Since(begin)

	var nowGoroutines, nowDescriptors int
	var nowHeap int64
	suite.Eventually(t, "goroutines, file descriptors and heap are back where they were", func() bool {
		nowGoroutines, nowDescriptors, nowHeap = settled()
		t.Logf("%d goroutines, were %d; %d file descriptors, were %d; %d KiB of heap, were %d", nowGoroutines, goroutines, nowDescriptors, descriptors, nowHeap>>10, heap>>10)
		return nowGoroutines <= goroutines+spareGoroutines && nowDescriptors <= descriptors+spareDescriptors && nowHeap <= heap+spareHeap
	})
	if got := hs.Count(scripted.WhoAmI).Asked; got != len(users) {
		t.Errorf("the homeserver was asked whose token it is %d times, want once for each of %d", got, len(users))
	}
	figure(t, "%d reloads in %s: goroutines %d, then %d; file descriptors %d, then %d; live heap %s, then %s; every read in between a hit",
		scale.reloads, took.Round(time.Second), goroutines, nowGoroutines, descriptors, nowDescriptors, mib(float64(heap)), mib(float64(nowHeap)))
}

// One kind of failure comes late, when the new configuration has been provisioned and
// has taken the memory: a port that somebody has.
func TestFailedReloadChangesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	hs := newHomeserver(t, scripted.Options{})
	users := newUsers(hs, 10)
	const options = `write_limit 3/1h burst 3
		cache {
			ttl 1h
			settle 0
		}
		identity {
			ttl 1h
		}`
	s := newServer(t, hs, options)

	// One user has no budget left, and everybody's presence is remembered.
	poor := users[0]
	for version := range int64(3) {
		expect(t, "a write", s.write(poor.token, poor.id, version+1).get(t), http.StatusOK)
	}
	for _, u := range users {
		expect(t, "a read", s.read(u.token, u.id).get(t), http.StatusOK)
	}
	config, tables, counts := s.config(), s.vitals().Tables, hs.Counts()
	unchanged := func(t *testing.T) {
		t.Helper()
		if got := s.config(); got != config {
			t.Errorf("the configuration has changed to %s", got)
		}
		if got := s.vitals().Tables; !maps.Equal(got, tables) {
			t.Errorf("the tables hold %v, want %v", got, tables)
		}
		for _, u := range users {
			if a := s.read(u.token, u.id).get(t); !a.hit() {
				t.Errorf("a read got %s, want a hit", a)
			}
		}
		expect(t, "a write without a budget", s.write(poor.token, poor.id, 9).get(t), http.StatusTooManyRequests)
		if got := hs.Counts(); !maps.Equal(got, counts) {
			t.Errorf("the homeserver was asked %v, want %v", got, counts)
		}
	}
	unchanged(t)
	goroutines := s.vitals().Goroutines

	tiny := "write_limit off\n cache {\n states 1\n permissions 1\n }\n identity {\n tokens 1\n }"
	second := fmt.Sprintf("http://%s {\nbind 127.0.0.1\nrespond ok\n}\n", taken.Addr())
	for name, bad := range map[string]string{
		"no Caddyfile":                      "{",
		"an option that there is not":       caddyfile(hs, "nonsense 1"),
		"a value out of range":              caddyfile(hs, "write_limit 0/1m"),
		"a module that there is not":        caddyfile(hs, tiny) + "http://127.0.0.1:1 {\nnonsense\n}\n",
		"a second handler without a name":   caddyfile(hs, tiny+"\n}\nmatrix_presence {"),
		"a port that is taken":              caddyfile(hs, options) + second,
		"a port that is taken, other sizes": caddyfile(hs, tiny) + second,
	} {
		t.Run(name, func(t *testing.T) {
			for range 3 {
				if err := s.Reload(t.Context(), bad); err == nil {
					t.Fatal("the reload succeeded")
				}
				unchanged(t)
			}
		})
	}
	suite.Eventually(t, "goroutines are back where they were", func() bool { return s.vitals().Goroutines <= goroutines+spareGoroutines })
}

// Whatever a configuration that fails late would have turned on, off or into something else behind requests: the one
// that goes on has all that it remembers, and nobody has another budget.
func TestFailedReloadOfWhatGoesOnChangesNothing(t *testing.T) {
	redis := redisserver.Start(t, redisserver.Redis)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	hs := newHomeserver(t, scripted.Options{})
	config := func(name, options string) string {
		return caddyfile(hs, "write_limit 3/1h burst 3\nread_limit off\nhomeserver synapse\nidentity {\nttl 1h\n}\ncache {\nttl 1h\nsettle 0\n"+name+"\n}\n"+options)
	}
	cluster := func(secret, more string) string {
		return fmt.Sprintf("cluster redis {\naddress %s\nkey_prefix %s:\nsecret %s\n%s\n}\n", redis.Address, secret, strings.Repeat(secret, 32), more)
	}
	feed := fmt.Sprintf("feed redis {\naddress %s\nserver_name example.com\nlive_ttl 2h\n}\n", redis.Address)
	configs := map[string]string{
		"nothing":                      config("name hs", ""),
		"no name":                      config("", ""),
		"another name":                 config("name other", ""),
		"a cluster":                    config("name hs", cluster("a", "timeout 500ms")),
		"a cluster of another timeout": config("name hs", cluster("a", "timeout 600ms")),
		"a cluster of another secret":  config("name hs", cluster("b", "timeout 500ms")),
		"a cluster and a snapshot":     config("name hs", cluster("a", "timeout 500ms")+"snapshot {$DIR}/one"),
		"a feed":                       config("name hs", feed),
		"another feed":                 config("name hs", strings.Replace(feed, "2h", "3h", 1)),
		"a snapshot":                   config("name hs", "snapshot {$DIR}/one"),
		"another snapshot":             config("name hs", "snapshot {$DIR}/two"),
	}
	second := fmt.Sprintf("http://%s {\nbind 127.0.0.1\nrespond ok\n}\n", taken.Addr())
	for _, running := range []string{"nothing", "no name", "a cluster", "a feed", "a snapshot"} {
		t.Run(running, func(t *testing.T) {
			users := newUsers(hs, 5)
			s := startServer(t, hs, configs[running])
			poor := users[0]
			for version := range int64(3) {
				expect(t, "a write", s.write(poor.token, poor.id, version+1).get(t), http.StatusOK)
			}
			remembered := func() bool {
				return !slices.ContainsFunc(users, func(u user) bool { a := s.read(u.token, u.id).get(t); return !a.hit() })
			}
			for _, name := range slices.Sorted(maps.Keys(configs)) {
				suite.Eventually(t, "everybody's presence is remembered", remembered)
				counts := hs.Counts()
				if err := s.Reload(t.Context(), configs[name]+second); err == nil {
					t.Fatalf("a reload to %s and a port that is taken succeeded", name)
				}
				for _, u := range users {
					if a := s.read(u.token, u.id).get(t); !a.hit() {
						t.Errorf("after a failed reload to %s a read got %s, want a hit", name, a)
					}
				}
				expect(t, "a write without a budget, after a failed reload to "+name, s.write(poor.token, poor.id, 9).get(t), http.StatusTooManyRequests)
				if now := hs.Counts(); !maps.Equal(now, counts) {
					t.Errorf("after a failed reload to %s the homeserver was asked %v, want %v", name, now, counts)
				}
			}
		})
	}
}

// reconfigured are configurations of which each adds, takes away or changes what goes on behind requests: a cluster, its
// secret, a feed, what is learned, what gives way, the page, repeats that are absorbed.
func reconfigured(hs *scripted.Homeserver, redis string) (configs []string) {
	const cache = "write_limit off\nread_limit off\nidentity {\nttl 1h\n}\ncache {\nname hs\nttl 1h\nsettle 0\n}\n"
	cluster := func(secret, more string) string {
		return fmt.Sprintf("cluster redis {\naddress %s\nkey_prefix %s:\nsecret %s\n%s\n}\n", redis, secret, strings.Repeat(secret, 32), more)
	}
	feed := fmt.Sprintf("homeserver synapse\nfeed redis {\naddress %s\nserver_name example.com\nlive_ttl 2h\n}\n", redis)
	for _, options := range []string{
		"", "learn on\nhomeserver synapse\n", cluster("a", "timeout 500ms"), cluster("a", "timeout 500ms") + "repeat_writes absorb\n",
		cluster("a", "timeout 600ms") + "learn on\nhomeserver synapse\n", feed, cluster("b", "timeout 500ms\noutage fresh") + feed,
		"brown_out on\n", "repeat_writes absorb\nsync_presence limit\nhomeserver synapse\n", "mode observe\n" + cluster("a", "timeout 500ms"),
	} {
		configs = append(configs, caddyfile(hs, cache+options))
	}
	for i, config := range configs {
		if i%3 == 1 {
			configs[i] = strings.Replace(config, "\tmatrix_presence {", "\tpresence_status /presence_status*\n\tmatrix_presence {", 1)
		}
	}
	return configs
}

// Whatever is turned on, off or into something else while requests are under way, and whatever fails to be: no
// acknowledged write is lost, no read is older than one, every accepted request is answered, and nothing goes on that
// has ended.
func TestReloadsOfWhatGoesOnBehindRequests(t *testing.T) {
	redis := redisserver.Start(t, redisserver.Redis)
	hs := newHomeserver(t, scripted.Options{Hidden: hides})
	configs := reconfigured(hs, redis.Address)
	s := startServer(t, hs, configs[0])
	c := gather(t, s, 24)
	c.busy(300)
	random := rand.New(rand.NewPCG(1, 2))
	for range 2 * scale.busy {
		if err := s.Reload(t.Context(), configs[random.IntN(len(configs))]); err != nil {
			t.Fatal(err)
		}
		if random.IntN(3) == 0 {
			failing := strings.Replace(configs[2+random.IntN(3)], "\treverse_proxy ", "\treverse_proxy nonsense://", 1)
			if s.Reload(t.Context(), strings.Replace(failing, "timeout 500ms", "timeout 700ms", 1)) == nil {
				t.Error("a configuration with nonsense was taken")
			}
		}
		c.busy(100)
	}
	c.disperse()
	requests, unaccepted := c.account()
	if err := s.Reload(t.Context(), configs[0]); err != nil {
		t.Fatal(err)
	}
	ours := regexp.MustCompile(`caddy-matrix-presence/(internal|redis|caddymodule)\S*|go-redis\S*`)
	suite.Eventually(t, "nothing goes on any more", func() bool {
		stacks, err := s.AskAdmin(t.Context(), http.MethodGet, "/debug/pprof/goroutine?debug=1", "")
		return err == nil && !ours.Match(stacks)
	})
	figure(t, "%d reloads of what goes on behind requests, under 24 clients: %d requests, %d writes acknowledged and none lost; %d were not accepted, and did nothing",
		2*scale.busy, requests, c.writes(), unaccepted)
}
