package admin

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
)

// browser is a Chromium with a page in it.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu         sync.Mutex // guards all below
	complaints []string   // in the console, or about the Content-Security-Policy
	hosts      map[string]bool
}

// newBrowser starts a Chromium without a window. Where there is none, the test is skipped.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	command, err := debian.CommandOfAll(t.Context(), os.Stderr, "chromium", "chromium")
	if errors.Is(err, debian.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	program := command()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program.Path), chromedp.Env(program.Env...), chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox,                           // as root there is none
		chromedp.Flag("disable-dev-shm-usage", true), // a container's is small
		chromedp.Flag("disable-background-timer-throttling", true),
	)
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	b := &browser{t: t, ctx: ctx, hosts: make(map[string]bool)}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("ending the browser: %v", err)
		}
		cancel()
		stop()
	})
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	call(b, network.Enable, network.EnableParams{})
	for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{log.Enable, runtime.Enable, audits.Enable} {
		call(b, enable, cdp.Empty{})
	}
	return b
}

// call runs a command of the browser's protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.t.Fatal(err)
	}
	return result
}

// hear notes what the page should not cause.
func (b *browser) hear(event any) {
	complain := func(format string, args ...any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.complaints = append(b.complaints, fmt.Sprintf(format, args...))
	}
	switch event := event.(type) {
	case *log.EventEntryAdded:
		complain("log: %s: %s %s", event.Entry.Level, event.Entry.Text, event.Entry.URL)
	case *runtime.EventConsoleAPICalled:
		complain("console: %s", event.Type)
	case *runtime.EventExceptionThrown:
		complain("exception: %s", event.ExceptionDetails.Text)
	case *audits.EventIssueAdded:
		complain("issue: %s", event.Issue.Code)
	case *network.EventRequestWillBeSent:
		asked, err := url.Parse(event.Request.URL)
		if err == nil && asked.Scheme != "data" {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.hosts[asked.Host] = true
		}
	}
}

func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// evaluate returns what an expression is in the page.
func evaluate[T any](b *browser, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatal(err)
	}
	return value
}

// quiet fails if the page has made somebody complain, or has asked another host.
func (b *browser) quiet(host string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.complaints) > 0 {
		b.t.Errorf("the browser complains: %s", strings.Join(b.complaints, "; "))
	}
	for other := range b.hosts {
		if other != host {
			b.t.Errorf("the page asked %s", other)
		}
	}
	b.complaints, b.hosts = nil, make(map[string]bool)
}

// eventually polls until an expression is true in the page. While the page is loaded anew, what it is about may be missing,
// or there is no page to ask.
func (b *browser) eventually(what, expression string) {
	b.t.Helper()
	expression = "(() => { try { return " + expression + " } catch { return false } })()"
	suite.EventuallyNil(b.t, what, func() error {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		if err == nil && !is {
			err = errors.New("it isn't so")
		}
		return err
	})
}
