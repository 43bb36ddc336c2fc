package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/report"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/bench/internal/throughput"
)

const usage = `Usage: make bench, or: cd integration && go run ./bench [flags]

Compares matrix_presence with bare Caddy, nginx, Varnish, caddy-ratelimit and
Souin, on loopback, one at a time. The first run also builds what is compared.
Let nothing else run meanwhile: ratios bear it, the other figures don't.

Flags:
  -size NAME  small (default, about three minutes) or full (about half an hour: more and
              longer rounds, Caddy's options too, a real Synapse)
  -only LIST  contenders or groups, separated by commas, or "freshness" for the second
              table alone; floors are added
  -docs DIR   write performance.json, the charts and the figures in performance.md
              there
  -list       show the contenders and leave
`

// onlyFreshness chooses the second table.
const onlyFreshness = "freshness"

// bench is the command.
func bench(ctx context.Context, args []string, out io.Writer, progress *os.File) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage) }
	sizeName := flags.String("size", "small", "")
	onlyList := flags.String("only", "", "")
	docs := flags.String("docs", "", "")
	list := flags.Bool("list", false, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	}
	if *list {
		printContenders(out)
		return nil
	}
	chosen, err := sizeOf(*sizeName)
	if err != nil {
		return err
	}
	only := strings.FieldsFunc(*onlyList, func(r rune) bool { return r == ',' })
	if *docs != "" && len(only) > 0 {
		return errors.New("the documentation shows a whole run: -docs and -only don't go together")
	}
	if runtime.GOOS != "linux" {
		return errors.New("CPU time is read from /proc, which only Linux has")
	}
	if *docs != "" {
		if *docs, err = filepath.Abs(*docs); err != nil {
			return err
		}
	}
	r, err := measure(ctx, chosen, only, progress)
	if err != nil {
		return err
	}
	r.print(out)
	if *docs != "" {
		if err := r.document(*docs); err != nil {
			return err
		}
	}
	return r.trusted()
}

// printContenders lists what -only takes.
func printContenders(out io.Writer) {
	t := report.Table{Title: "Contenders", Columns: []string{"<name", "<group", "<sizes", "<what is measured"}}
	for _, c := range throughput.Contenders {
		sizes := "all"
		if c.Full {
			sizes = "full"
		}
		t.Rows = append(t.Rows, []string{c.Name, c.Group, sizes, c.What})
	}
	t.Text(out)
}
