// Package command is what the commands of this module have in common: how they begin and
// end, their flags, and where they show progress.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Main runs a command, and leaves with its status: 130 if a signal ended it, 1 for an
// error, which is shown.
func Main(name string, run func(ctx context.Context, args []string, out io.Writer, progress *os.File) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Flags are those that the commands take.
type Flags struct {
	// Full says that the size is full, and not small.
	Full bool
	// Only is a part of what could be measured, or empty for all of it.
	Only []string
	// Docs is the folder of the documentation to write, absolute, or empty.
	Docs string
	// List asks for a list of what there is to measure.
	List bool
}

// Size is the word for the size.
func (f Flags) Size() string {
	if f.Full {
		return "full"
	}
	return "small"
}

// Parse reads the flags. Usage is printed for -help.
func Parse(usage string, args []string, out io.Writer) (f Flags, err error) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() { fmt.Fprint(out, usage) }
	size := flags.String("size", "small", "")
	only := flags.String("only", "", "")
	flags.StringVar(&f.Docs, "docs", "", "")
	flags.BoolVar(&f.List, "list", false, "")
	if err := flags.Parse(args); err != nil {
		return f, err
	}
	f.Full = *size == "full"
	f.Only = strings.FieldsFunc(*only, func(r rune) bool { return r == ',' })
	switch {
	case flags.NArg() > 0:
		return f, fmt.Errorf("unexpected argument %q; see --help", flags.Arg(0))
	case *size != f.Size():
		return f, fmt.Errorf("there is no size %q: small or full", *size)
	case f.Docs != "" && len(f.Only) > 0:
		return f, errors.New("the documentation shows a whole run: -docs and -only don't go together")
	case runtime.GOOS != "linux":
		return f, errors.New("CPU time is read from /proc, which only Linux has")
	case f.Docs != "":
		f.Docs, err = filepath.Abs(f.Docs)
	}
	return f, err
}

// IsTerminal tells whether a line that is written over can be seen there.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
