package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dependencies:", err)
		os.Exit(1)
	}
}

// dependency is what the module in a folder needs directly. The folder is a path
// from the root, "." for the plugin's own module.
type dependency struct{ folder, module string }

func (d dependency) String() string { return d.module + ", in " + d.folder }

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("name the root of the checkout")
	}
	root := os.DirFS(args[0])
	text, err := fs.ReadFile(root, "CONTRIBUTING.md")
	if err != nil {
		return err
	}
	reasons := listed(string(text))
	needed, problems, err := find(root)
	if err != nil {
		return err
	}
	for _, d := range needed {
		if reasons[d] == "" {
			problems = append(problems, fmt.Sprintf("CONTRIBUTING.md doesn't say what %s is for", d))
		}
		delete(reasons, d)
	}
	for d := range maps.Keys(reasons) {
		problems = append(problems, fmt.Sprintf("CONTRIBUTING.md lists %s, where nothing needs it", d))
	}
	slices.Sort(problems)
	for _, p := range problems {
		fmt.Fprintln(out, p)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%d problems", len(problems))
	}
	fmt.Fprintf(out, "%d direct dependencies, each with its reason in CONTRIBUTING.md\n", len(needed))
	return nil
}

// listed returns the reasons that the tables of dependencies give: of the plugin
// as "| module | why |", of the rest as "| folder | module | why |".
func listed(markdown string) map[dependency]string {
	reasons := make(map[dependency]string)
	inside := false
	for line := range strings.Lines(markdown) {
		if strings.HasPrefix(line, "#") {
			inside = strings.HasPrefix(line, "## Dependencies")
		}
		if !inside || !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i, c := range cells {
			cells[i] = strings.Trim(c, " `")
		}
		folder := "."
		if len(cells) == 3 {
			folder, cells = path.Clean(cells[0]), cells[1:]
		}
		if len(cells) == 2 && cells[0] != "module" {
			reasons[dependency{folder, cells[0]}] = cells[1]
		}
	}
	return reasons
}

// find returns what the modules under the root need directly, and what isn't
// pinned.
func find(root fs.FS) (needed []dependency, problems []string, err error) {
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != "." && (strings.HasPrefix(entry.Name(), ".") || strings.HasPrefix(entry.Name(), "buildenv_")) {
			return fs.SkipDir
		}
		switch entry.Name() {
		case "go.mod":
			text, err := fs.ReadFile(root, name)
			if err != nil {
				return err
			}
			modules, err := direct(name, text)
			for _, m := range modules {
				needed = append(needed, dependency{path.Dir(name), m})
			}
			return err
		case "requirements.txt":
			text, err := fs.ReadFile(root, name)
			if err != nil {
				return err
			}
			problems = append(problems, loose(name, string(text))...)
		}
		return nil
	})
	return needed, problems, err
}

// direct returns the modules that a go.mod requires for its own code and for its
// tools, except those of this repository itself.
func direct(name string, text []byte) ([]string, error) {
	f, err := modfile.Parse(filepath.ToSlash(name), text, nil)
	if err != nil {
		return nil, err
	}
	const ours = "github.com/caddy-matrix/caddy-matrix-presence"
	tool := func(module string) bool {
		return slices.ContainsFunc(f.Tool, func(t *modfile.Tool) bool {
			return t.Path == module || strings.HasPrefix(t.Path, module+"/")
		})
	}
	var modules []string
	for _, r := range f.Require {
		if !strings.HasPrefix(r.Mod.Path, ours) && (!r.Indirect || tool(r.Mod.Path)) {
			modules = append(modules, r.Mod.Path)
		}
	}
	return modules, nil
}

// loose returns the Python requirements that name no exact version.
func loose(name, text string) []string {
	var problems []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !strings.Contains(line, "==") {
			problems = append(problems, fmt.Sprintf("%s: %s names no exact version", name, line))
		}
	}
	return problems
}
