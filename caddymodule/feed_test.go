package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

func init() { caddy.RegisterModule(scriptedFeed{}) }

// scriptedFeed is a guest module. Its key is what it is configured with.
type scriptedFeed struct {
	Name string         `json:"name,omitempty"`
	TTL  caddy.Duration `json:"ttl,omitempty"`
}

func (scriptedFeed) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: feedNamespace + ".scripted", New: func() caddy.Module { return new(scriptedFeed) }}
}

func (f *scriptedFeed) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&f.Name) {
		return d.ArgErr()
	}
	f.TTL = caddy.Duration(time.Minute)
	return nil
}

func (f *scriptedFeed) Key() string            { return f.Name }
func (f *scriptedFeed) LiveFor() time.Duration { return time.Duration(f.TTL) }

// runningFeeds are those that run, by their names.
var runningFeeds struct {
	sync.Mutex // guards names
	names      []string
}

func (f *scriptedFeed) Run(ctx context.Context, news gateway.News) {
	runningFeeds.Lock()
	runningFeeds.names = append(runningFeeds.names, f.Name)
	runningFeeds.Unlock()
	news.Connected()
	news.Heard(gateway.LineOther)
	<-ctx.Done()
	runningFeeds.Lock()
	defer runningFeeds.Unlock()
	runningFeeds.names = slices.DeleteFunc(runningFeeds.names, func(name string) bool { return name == f.Name })
}

// wantRunning waits until these feeds run.
func wantRunning(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		runningFeeds.Lock()
		got = slices.Sorted(slices.Values(runningFeeds.names))
		runningFeeds.Unlock()
		if slices.Equal(got, want) {
			return
		}
	}
	t.Errorf("these feeds run: %v, want %v", got, want)
}

func fed(name string) *Handler {
	return &Handler{FeedRaw: json.RawMessage(fmt.Sprintf(`{"source":"scripted","name":%q,"ttl":"10m"}`, name))}
}

func TestFeedGoesOnOverAReload(t *testing.T) {
	p := handle(t, fed("one"))
	wantRunning(t, "one")
	feed := p.handler.pooled.feeds["one"]
	p.reload(fed("one"))
	if p.handler.pooled.feeds["one"] != feed {
		t.Error("it was begun anew")
	}
	if got := p.handler.gateway.Settings().Rules.LiveTTL; got != 10*time.Minute {
		t.Errorf("what it covers lives for %v", got)
	}
	p.reload(fed("two"))
	wantRunning(t, "two")
	p.reload(new(Handler))
	wantRunning(t)
}

func TestFailedReloadLeavesTheFeedAlone(t *testing.T) {
	p := handle(t, fed("one"))
	wantRunning(t, "one")
	// Something else in the configuration fails after this handler.
	other := fed("other")
	other.Cache = &Cache{Name: p.handler.Cache.Name}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := other.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	if err := other.Cleanup(); err != nil {
		t.Fatal(err)
	}
	wantRunning(t, "one")
}

func TestFeedOfACaddyfile(t *testing.T) {
	for block, want := range map[string]string{
		"feed":                                 "expected the name of a module",
		"feed none":                            "this Caddy has no feed 'none'",
		"feed scripted":                        "wrong argument count",
		"feed scripted a\nfeed scripted b":     "'feed' is given twice",
		"cache off\nfeed scripted a":           "it has no effect with cache off, at Testfile:3",
		"homeserver dendrite\nfeed scripted a": "only Synapse has one, so homeserver must be synapse or auto, at Testfile:3",
		"cache {\nttl 2m\n}\nfeed scripted a":  "live_ttl, 1m0s, is shorter than ttl, 2m0s, at Testfile:5",
	} {
		err := new(Handler).UnmarshalCaddyfile(caddyfile.NewTestDispenser("matrix_presence {\n" + block + "\n}"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", block, err, want)
		}
	}
	var h Handler
	if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("matrix_presence {\nfeed scripted a\nhomeserver synapse\n}")); err != nil {
		t.Fatal(err)
	}
	if got := string(h.FeedRaw); got != `{"name":"a","source":"scripted","ttl":60000000000}` {
		t.Errorf("its JSON is %s", got)
	}
}

func TestFeedThatIsNoneIsRefused(t *testing.T) {
	for _, raw := range []string{`{"source":"none"}`, `{}`, `{"source":"scripted","name":7}`} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		h := &Handler{FeedRaw: json.RawMessage(raw), Cache: &Cache{Name: t.Name()}}
		if err := h.Provision(ctx); err == nil {
			t.Errorf("%s was taken", raw)
		}
		if err := h.Cleanup(); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
