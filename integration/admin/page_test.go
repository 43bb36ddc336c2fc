package admin

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

var screenshots = flag.String("screenshots", "", "a folder to put pictures of the page into")

// startPage starts a sidecar with a page. It returns both, and the page's host.
func startPage(t *testing.T, options string) (s *sidecar.Sidecar, host string) {
	t.Helper()
	_, upstream := serveHomeserver(t)
	s, err := process.Retry(func() (*sidecar.Sidecar, error) {
		addresses, err := process.FreeAddresses(1)
		if err != nil {
			return nil, err
		}
		host = addresses[0]
		page := "http://" + host + " {\n\tbind 127.0.0.1\n\tpresence_status {\n\t\t" + options + "\n\t}\n}\n"
		return sidecar.StartCaddyfile(t.Context(), caddyfile(upstream, "", "write_limit 2/1h", page))
	})
	return suite.Sidecar(t)(s, err), host
}

// cell is an expression for the text of a cell in a row of the key figures.
func cell(row string, column int) string {
	return fmt.Sprintf(`Array.from(document.querySelectorAll("table.figures tbody tr")).find(r => r.cells[0].textContent.startsWith(%q)).cells[%d].textContent`,
		row, column)
}

func TestThePageShowsWhatHappens(t *testing.T) {
	s, host := startPage(t, "show_users on")
	b := newBrowser(t)
	b.run(chromedp.EmulateViewport(1240, 1500), chromedp.Navigate("http://"+host+"/"))
	b.eventually("there are no reads yet", cell("Reads", 3)+` === "0"`)
	for range 20 {
		get(t, s, "bob-token", scripted.Alice)
	}
	b.eventually("the number of reads moves without a reload", cell("Reads", 3)+` === "20"`)
	b.eventually("so does what is now", cell("Reads", 1)+` !== "0/s" && `+cell("Reads", 1)+` !== "–"`)
	b.eventually("the curve is drawn", `document.querySelector("table.figures path").getAttribute("d").length > 5`)

	// Somebody is over a limit: the page has another layout, so it is made anew.
	for range 5 {
		put(t, s, "alice-token", scripted.Alice)
	}
	b.eventually("who is over a limit is shown", fmt.Sprintf(`document.body.textContent.includes(%q)`, scripted.Alice))
	b.eventually("and how they were answered", `document.body.textContent.includes("limited")`)
	b.quiet(host)
	picture(b, "page")
	b.quiet(host)

	s.End()
	b.eventually("that nobody answers is said", `!document.getElementById("state").hidden && document.getElementById("state").textContent.startsWith("No answer since")`)
	if total := evaluate[string](b, cell("Reads", 3)); total != "20" {
		t.Errorf("the last number is gone: %q", total)
	}
}

// picture takes a picture of the page, if somebody wants some.
func picture(b *browser, name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), png, 0o644); err != nil { //nolint:gosec // G306: for everybody
		b.t.Fatal(err)
	}
}

// Without scripts the page is complete, and refreshes itself by the browser.
func TestThePageNeedsNoScript(t *testing.T) {
	s, host := startPage(t, "show_users off")
	get(t, s, "bob-token", scripted.Alice)
	b := newBrowser(t)
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.run(chromedp.Navigate("http://" + host + "/"))
	if total := evaluate[string](b, cell("Reads", 3)); total != "1" {
		t.Errorf("%s reads", total)
	}
	if refresh := evaluate[string](b, `document.querySelector("meta[http-equiv=refresh]")?.content ?? ""`); refresh != "5" {
		t.Errorf("it refreshes itself each %q seconds", refresh)
	}
	b.quiet(host)
}

func TestThePageFitsSmallScreensAndDarkOnes(t *testing.T) {
	s, host := startPage(t, "show_users on")
	for range 5 {
		get(t, s, "bob-token", scripted.Alice)
		put(t, s, "alice-token", scripted.Alice)
	}
	b := newBrowser(t)
	for _, scheme := range []string{"light", "dark"} {
		call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		for name, width := range map[string]int64{"phone": 360, "a screen at 200 %": 620, "screen": 1240} {
			b.run(chromedp.EmulateViewport(width, 900), chromedp.Navigate("http://"+host+"/"))
			if wide := evaluate[int64](b, `document.documentElement.scrollWidth`); wide > width {
				t.Errorf("%s: %d px wide on %d", name, wide, width)
			}
			if !strings.Contains(name, " ") {
				picture(b, name+"-"+scheme)
			}
		}
		for _, element := range []string{"body", "header p", "tbody th", "tbody td", "thead th", "small:not(:empty)", "code", "dt"} {
			if ratio := contrast(b, element); ratio < 4.5 {
				t.Errorf("%s: the contrast of %s is %.1f", scheme, element, ratio)
			}
		}
	}
	if dark := evaluate[string](b, `getComputedStyle(document.documentElement).backgroundColor`); dark == "rgb(246, 248, 250)" {
		t.Errorf("in dark mode the page is %s", dark)
	}
	b.quiet(host)
}

// contrast returns that of an element's text, as WCAG defines it.
func contrast(b *browser, element string) float64 {
	b.t.Helper()
	colours := evaluate[[]string](b, fmt.Sprintf(`(() => {
		let e = document.querySelector(%q);
		const text = getComputedStyle(e).color;
		while (e && getComputedStyle(e).backgroundColor === "rgba(0, 0, 0, 0)") e = e.parentElement;
		return [text, getComputedStyle(e).backgroundColor];
	})()`, element))
	luminance := func(colour string) (l float64) {
		var rgb [3]float64
		if _, err := fmt.Sscanf(colour, "rgb(%f, %f, %f)", &rgb[0], &rgb[1], &rgb[2]); err != nil {
			b.t.Fatalf("%s is %q: %v", element, colour, err)
		}
		for i, part := range []float64{.2126, .7152, .0722} {
			c := rgb[i] / 255
			if c <= .04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+.055)/1.055, 2.4)
			}
			l += part * c
		}
		return l
	}
	light, dark := luminance(colours[0]), luminance(colours[1])
	return (max(light, dark) + .05) / (min(light, dark) + .05)
}

// What a screen reader gets: tables with names, heads of columns and rows.
func TestThePageCanBeReadAloud(t *testing.T) {
	s, host := startPage(t, "show_users off")
	get(t, s, "bob-token", scripted.Alice)
	b := newBrowser(t)
	b.run(chromedp.Navigate("http://" + host + "/"))
	names := make(map[string][]string)
	for _, node := range call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Role != nil && node.Name != nil && !node.Ignored {
			role := strings.Trim(string(node.Role.Value), `"`)
			names[role] = append(names[role], strings.Trim(string(node.Name.Value), `"`))
		}
	}
	for role, want := range map[string]string{
		"RootWebArea": "Presence", "heading": "matrix.example.com", "region": "matrix.example.com", "table": "Key figures",
		"columnheader": "Now", "rowheader": "Waiting writes pending",
	} {
		found := false
		for _, name := range names[role] {
			found = found || name == want
		}
		if !found {
			t.Errorf("no %s is named %q, but %q", role, want, names[role])
		}
	}
	for _, name := range names["table"] {
		if name == "" {
			t.Error("a table has no name")
		}
	}
	b.quiet(host)
}

// Who isn't allowed gets a page that says how to change that.
func TestThePageSaysHowToBeAllowed(t *testing.T) {
	_, host := startPage(t, "allow 203.0.113.0/24")
	b := newBrowser(t)
	b.run(chromedp.EmulateViewport(700, 420), chromedp.Navigate("http://"+host+"/"))
	text := evaluate[string](b, `document.body.innerText`)
	for _, want := range []string{"Not for 127.0.0.1", "only 203.0.113.0/24", "allow 203.0.113.0/24 127.0.0.1", "basic_auth"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %q", want, text)
		}
	}
	picture(b, "refused")
}
