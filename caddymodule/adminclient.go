package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// adminTimeout is how long a command waits for the admin endpoint.
const adminTimeout = 5 * time.Second

// adminClient asks a running Caddy.
type adminClient struct {
	address string
	timeout time.Duration
}

// noSite is the error where nothing in the running Caddy has the directive.
func (c *adminClient) noSite() error {
	return fmt.Errorf("the Caddy at %s has no site with matrix_presence", c.address)
}

// addAdminFlags adds the flags that say where that is, as Caddy's own commands have them.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().StringP("config", "c", "", "Configuration file that says where the administration listener is")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	cmd.Flags().String("address", "", "Address of the administration listener, if different from config (default localhost:2019)")
	cmd.Flags().Bool("json", false, "Print JSON")
}

// newAdminClient returns a client for what the flags say.
func newAdminClient(flags caddycmd.Flags) (*adminClient, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("finding the admin endpoint: %w", err)
	}
	return &adminClient{address, adminTimeout}, nil
}

// ask asks the module's part of the endpoint, and reads the answer. A question makes it a POST.
func (a *adminClient) ask(path string, question, answer any) error {
	method, body := http.MethodGet, io.Reader(nil)
	if question != nil {
		text, err := json.Marshal(question)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(text)
	}
	type answered struct {
		text []byte
		err  error
	}
	done := make(chan answered, 1)
	go func() {
		text, err := a.request(method, adminPrefix+path, body)
		done <- answered{text, err}
	}()
	select {
	case got := <-done:
		if got.err != nil {
			return a.explain(got.err)
		}
		if err := json.Unmarshal(got.text, answer); err != nil {
			return fmt.Errorf("reading the answer of the admin endpoint: %w", err)
		}
		return nil
	case <-time.After(a.timeout):
		return fmt.Errorf("the admin endpoint %s doesn't answer within %v", a.address, a.timeout)
	}
}

// request returns the body of an answer. Caddy's client makes a transport for each request, which
// must not keep its connection.
func (a *adminClient) request(method, path string, body io.Reader) ([]byte, error) {
	resp, err := caddycmd.AdminAPIRequest(a.address, method, path, http.Header{"Connection": {"close"}}, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	return io.ReadAll(resp.Body)
}

// explain says what is the matter in the words of who runs this.
func (a *adminClient) explain(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, "HTTP 404") && !strings.Contains(text, "there is no cache"):
		return fmt.Errorf("the Caddy at %s doesn't have matrix_presence, or an older version: is it caddy-presence?", a.address)
	case strings.HasPrefix(text, "performing request:"):
		return fmt.Errorf("no Caddy answers at %s: is it running, and its admin endpoint on? presence-proxy has none; --address names another: %w",
			a.address, err)
	}
	var problem struct{ Error string }
	if _, about, ok := strings.Cut(text, ": {"); ok && json.Unmarshal([]byte("{"+about), &problem) == nil && problem.Error != "" {
		return errors.New(problem.Error)
	}
	return err
}
