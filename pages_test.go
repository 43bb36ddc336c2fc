package presence_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pages are those that are written for people, from the root.
func pages() []string {
	top, _ := filepath.Glob("*.md")
	docs, _ := filepath.Glob("docs/*.md")
	deploy, _ := filepath.Glob("docs/*/*.md")
	return slices.Concat(top, docs, deploy)
}

var (
	link    = regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	inLink  = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	dropped = regexp.MustCompile(`[^\pL\pN_ -]`)
)

// anchors are the names of a page's headings, as forges make them.
func anchors(page string) (names []string) {
	for _, match := range heading.FindAllStringSubmatch(read(page), -1) {
		text := dropped.ReplaceAllString(strings.ToLower(inLink.ReplaceAllString(match[1], "$1")), "")
		names = append(names, strings.ReplaceAll(text, " ", "-"))
	}
	return names
}

// What the pages link to among themselves, and in this repository, is there.
func TestLinksOfThePagesLeadSomewhere(t *testing.T) {
	for _, page := range pages() {
		for _, match := range link.FindAllStringSubmatch(read(page), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			to := page
			if match[1] != "" {
				to = filepath.Join(filepath.Dir(page), match[1])
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if match[2] != "" && !slices.Contains(anchors(to), match[2]) {
				t.Errorf("%s: %s has no heading #%s", page, to, match[2])
			}
		}
	}
}

// Each warning and error that the log may have is explained, by its first words.
func TestEachWarningOfTheLogIsExplained(t *testing.T) {
	var explained strings.Builder
	for _, page := range []string{"operations", "feed", "cluster"} {
		text := strings.ReplaceAll(read("docs/"+page+".md"), "\n> ", "\n")
		explained.WriteString(strings.Join(strings.Fields(text), " ") + "\n")
	}
	found := 0
	for _, room := range append(rooms(t), "redis") {
		eachCall(t, room, func(name string, args []ast.Expr) {
			if !slices.Contains([]string{"Warn", "Warnw", "Error", "Errorw"}, name) || len(args) == 0 {
				return
			}
			message, ok := firstText(args[0])
			if !ok {
				return
			}
			found++
			if words := message[:strings.IndexAny(message+":", ":;,")]; !strings.Contains(explained.String(), words) {
				t.Errorf("docs/operations.md doesn't explain %q of %s", words, room)
			}
		})
	}
	if found < 12 {
		t.Errorf("only %d lines are known", found)
	}
}

// eachCall calls f with each call of a method in a room, but for its tests.
func eachCall(t *testing.T, room string, f func(name string, args []ast.Expr)) {
	t.Helper()
	files, _ := filepath.Glob(room + "/*.go")
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if call, ok := node.(*ast.CallExpr); ok {
				if method, ok := call.Fun.(*ast.SelectorExpr); ok {
					f(method.Sel.Name, call.Args)
				}
			}
			return true
		})
	}
}

// firstText returns the text that an expression begins with, if it does with one.
func firstText(e ast.Expr) (text string, ok bool) {
	for sum, is := e.(*ast.BinaryExpr); is; sum, is = e.(*ast.BinaryExpr) {
		e = sum.X
	}
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(literal.Value)
	return text, err == nil
}
