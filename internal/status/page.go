package status

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"html/template"
	"io"
	"strings"
)

//go:embed assets
var assets embed.FS

// Asset is a file that the page needs. Its name has a hash of what is in it, so that a browser may
// keep it for good.
type Asset struct {
	Name, Type string
	Content    []byte
}

var (
	// Style and Script are the page's.
	Style  = asset("style.css", "text/css; charset=utf-8")
	Script = asset("script.js", "text/javascript; charset=utf-8")

	pageTemplate   = template.Must(template.ParseFS(assets, "assets/page.html"))
	refuseTemplate = template.Must(template.ParseFS(assets, "assets/refused.html"))
)

// Policy is the Content-Security-Policy of the page: nothing but its own files.
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

func asset(file, kind string) Asset {
	content, err := assets.ReadFile("assets/" + file)
	if err != nil {
		panic(err)
	}
	hash := sha256.Sum256(content)
	stem, ending, _ := strings.Cut(file, ".")
	return Asset{"presence-" + stem + "." + hex.EncodeToString(hash[:6]) + "." + ending, kind, content}
}

// HTML writes a view as a page, which is complete without a script.
func (v *View) HTML(w io.Writer) error {
	return pageTemplate.Execute(w, struct {
		*View
		Style, Script         string
		CurveWidth, CurveHigh int
	}{v, Style.Name, Script.Name, curveWidth + 4, curveHeight})
}

// Refused writes the page for a client who isn't allowed to see any.
func Refused(w io.Writer, client, why, how string) error {
	return refuseTemplate.Execute(w, struct{ Style, Client, Why, How string }{Style.Name, client, why, how})
}

// Refresh is what the page's script needs to make a page from an older one of the same layout: what
// its cells say, in their order.
type Refresh struct {
	Layout string   `json:"layout"`
	Texts  []string `json:"texts"` // of each cell its text and what is less important
	Bad    []bool   `json:"bad"`
	Paths  []string `json:"paths"` // of those cells that have a curve or a bar
}

// Refresh returns what changes an older page of the same layout into this one.
func (v *View) Refresh() *Refresh {
	r := &Refresh{Layout: v.Layout}
	v.eachCell(func(c *Cell) {
		r.Texts = append(r.Texts, c.Text, c.Sub)
		r.Bad = append(r.Bad, c.IsBad)
		if c.IsCurve {
			r.Paths = append(r.Paths, c.Path)
		}
	})
	return r
}

// JSON writes the document as JSON.
func (d *Document) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}
