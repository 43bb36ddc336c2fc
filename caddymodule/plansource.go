package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	forecast "github.com/caddy-matrix/caddy-matrix-presence/internal/plan"
)

// answerPlan answers a question, about what was described or what a source tells.
func answerPlan(cmd *cobra.Command, flags caddycmd.Flags, q *forecast.Question, progress *planProgress) (*forecast.Answer, error) {
	name := flags.String("from")
	switch {
	case name != "":
	case cmd.Flags().Changed("from"):
		return nil, errors.New("--from: expected a file, an http address, or -")
	case cmd.Flags().Changed("over"):
		return nil, errors.New("--over is of a metrics page: give --from too, or leave it out")
	default:
		return q.Estimate(cmd.Context())
	}
	source, made, err := openSource(cmd, name)
	if err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	defer source.Close() //nolint:errcheck // it was read
	answer, err := readSource(cmd, flags, q, bufio.NewReader(source), made, progress)
	if err != nil {
		return nil, fmt.Errorf("--from %s: %w", name, err)
	}
	return answer, nil
}

// readSource answers a question about the load that a source tells of.
func readSource(cmd *cobra.Command, flags caddycmd.Flags, q *forecast.Question, source *bufio.Reader, made time.Time, progress *planProgress) (*forecast.Answer, error) {
	told := []string{"online", "devices", "session", "opens", "poll", "writes", "browsers", "sync-every", "bridge"}
	isMetrics, what := forecast.IsMetricsPage(source), "a metrics page"
	if err := forecast.CheckSource(source); err != nil {
		return nil, err
	}
	if !isMetrics {
		what = "no metrics page, and an access log"
		told = append(told, "users", "rooms", "looks", "shown", "lists", "idles", "over", "load")
	}
	for _, flag := range told {
		if cmd.Flags().Changed(flag) {
			return nil, fmt.Errorf("it is %s, which tells the load by itself: leave --%s out", what, flag)
		}
	}
	if isMetrics {
		return q.FromMetrics(cmd.Context(), source, made, flags.Duration("over"))
	}
	return q.FromLog(source, progress.tellLines)
}

// sourceTimeout is how long a metrics page may take.
const sourceTimeout = 30 * time.Second

// openSource opens what --from names, and returns when that was written.
func openSource(cmd *cobra.Command, name string) (source io.ReadCloser, made time.Time, err error) {
	switch {
	case name == "-":
		return io.NopCloser(cmd.InOrStdin()), time.Now(), nil
	case strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://"):
		client := &http.Client{Timeout: sourceTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
		request, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, name, nil)
		if err != nil {
			return nil, made, err
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, made, err
		}
		if response.StatusCode != http.StatusOK {
			_ = response.Body.Close()
			return nil, made, fmt.Errorf("%s answers with status %d: is it a metrics page?", name, response.StatusCode)
		}
		return response.Body, time.Now(), nil
	}
	file, err := os.Open(name) //nolint:gosec // G304: whatever the admin names
	if err != nil {
		return nil, made, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, made, errors.Join(err, file.Close())
	}
	return file, info.ModTime(), nil
}

// planProgress says how much is done, if it takes more than a few seconds.
type planProgress struct {
	out         io.Writer
	begun, told time.Time
}

// Patience is after which time progress is told, and again.
const patience = 2 * time.Second

func (p *planProgress) tell(done float64) {
	now := time.Now()
	if now.Sub(p.begun) < patience || now.Sub(p.told) < patience/2 {
		return
	}
	p.told = now
	left := time.Duration(float64(now.Sub(p.begun)) * (1 - done) / done).Round(time.Second)
	_, _ = fmt.Fprintf(p.out, "simulated %.0f %%, about %v left\n", 100*done, left)
}

// tellLines tells how much of a log was read.
func (p *planProgress) tellLines(read forecast.LogCounts) {
	now := time.Now()
	if now.Sub(p.begun) < patience || now.Sub(p.told) < patience/2 {
		return
	}
	p.told = now
	_, _ = fmt.Fprintf(p.out, "read %d lines, %d about presence\n", read.Lines, read.Used)
}

func (p *planProgress) end() {
	if !p.told.IsZero() {
		_, _ = fmt.Fprintf(p.out, "simulated in %v\n", time.Since(p.begun).Round(100*time.Millisecond))
	}
}
