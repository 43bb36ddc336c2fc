package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// printer writes for a person: aligned, and in colour if that is a terminal.
type printer struct {
	out    io.Writer
	colour bool
}

func newPrinter(out io.Writer) *printer {
	p := &printer{out: out}
	if f, ok := out.(*os.File); ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" {
		info, err := f.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

// The columns. Colours go around padded text, because escape sequences count as
// width.
const columns = "%-36s  %s  %s  %s"

func (p *printer) header() {
	p.line("%s", p.paint(bold, fmt.Sprintf(columns, "request", pad("answer", 30), pad("who answered", 30), "time")))
}

func (p *printer) row(a act, o outcome) {
	colour := green
	if o.code >= 400 {
		colour = red
	}
	says := pad(a.method, 3) + " " + a.says
	if o.reads > 1 {
		says += fmt.Sprintf(" (try %d)", o.reads)
	}
	who := pad(o.answered(), 30)
	if strings.HasPrefix(who, "sidecar") {
		who = p.paint(cyan, who)
	}
	p.line(columns, says, p.paint(colour, pad(o.answer(), 30)), who, o.took.Round(10*time.Microsecond))
}

// curls prints lines to try by hand.
func (p *printer) curls(s *stage, base string) {
	p.line("\n%s", p.paint(bold, "Try it:"))
	for _, c := range []struct{ says, flags, token string }{
		{"bob reads alice; see Cache-Status", "-i", s.bob.AccessToken},
		{"alice writes", `-X PUT -d '{"presence":"unavailable","status_msg":"asleep"}'`, s.alice.AccessToken},
		{"the stranger may not", `-X PUT -d '{"presence":"online"}'`, s.stranger.AccessToken},
	} {
		p.line("# %s", c.says)
		p.line("curl %s -H 'Authorization: Bearer %s' '%s%s'", c.flags, c.token, base, presenceOf(s.alice))
	}
}

const (
	bold  = "1"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// pad makes text at least n columns wide, counting characters, not bytes.
func pad(text string, n int) string { return fmt.Sprintf("%-*s", n, text) }
