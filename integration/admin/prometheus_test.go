package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/suite"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/sidecar"
	"github.com/caddy-matrix/caddy-matrix-presence/internal/scripted"
)

// prometheusProgram returns a command of a program of Debian's Prometheus, whose service isn't started.
func prometheusProgram(t *testing.T, name string) func(args ...string) *exec.Cmd {
	t.Helper()
	command, err := debian.Command(t.Context(), os.Stderr, name, "prometheus")
	if errors.Is(err, debian.ErrUnavailable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return command
}

// contrib returns the path of a file in contrib.
func contrib(name string) string { return filepath.Join("../../contrib", name) }

// Each alert fires when it should and doesn't when it shouldn't, and has a runbook.
func TestAlertsFireAndHaveARunbook(t *testing.T) {
	promtool := prometheusProgram(t, "promtool")
	rules, cases := contrib("prometheus/rules.yml"), contrib("prometheus/rules_test.yml")
	for _, args := range [][]string{{"check", "rules", rules}, {"test", "rules", cases}} {
		if out, err := promtool(args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %q: %v\n%s", args, err, out)
		}
	}
	tested, err := os.ReadFile(cases)
	if err != nil {
		t.Fatal(err)
	}
	runbook, err := os.ReadFile("../../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range readRules(t) {
		if rule.Alert == "" {
			continue
		}
		for _, kind := range []string{" fires\n", " does not fire\n"} {
			if !strings.Contains(string(tested), "name: "+rule.Alert+kind) {
				t.Errorf("no case in which %s%s", rule.Alert, kind)
			}
		}
		if !strings.Contains(string(runbook), "\n### "+rule.Alert+"\n") {
			t.Errorf("docs/alerts.md doesn't say what to do about %s", rule.Alert)
		}
		if want := "docs/alerts.md#" + strings.ToLower(rule.Alert); !strings.HasSuffix(rule.Annotations["runbook_url"], want) || rule.Annotations["summary"] == "" ||
			rule.Annotations["description"] == "" || rule.Labels["severity"] == "" {
			t.Errorf("%s lacks an annotation or a severity, or its runbook isn't at %s: %v", rule.Alert, want, rule)
		}
	}
}

// rule is a rule of Prometheus.
type rule struct {
	Record, Alert, Expr string
	Labels, Annotations map[string]string
}

func readRules(t *testing.T) (rules []rule) {
	t.Helper()
	text, err := os.ReadFile(contrib("prometheus/rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []rule }
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	return rules
}

// panel is a query of the dashboard.
type panel struct{ title, expr string }

// dashboard reads the queries of the dashboard, and what its variables ask.
func dashboard(t *testing.T) (panels []panel, variables []string, file map[string]any) {
	t.Helper()
	text, err := os.ReadFile(contrib("grafana/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name, Type, Definition string
			}
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			panels = append(panels, panel{p.Title, target.Expr})
		}
	}
	for _, v := range d.Templating.List {
		if v.Type == "query" {
			variables = append(variables, v.Definition)
		}
	}
	return panels, variables, file
}

// The dashboard names no data source of ours: whoever imports it chooses theirs.
func TestDashboardLeavesTheDataSourceOpen(t *testing.T) {
	panels, variables, file := dashboard(t)
	if len(panels) < 20 || len(variables) != 3 {
		t.Errorf("%d queries and %d variables", len(panels), len(variables))
	}
	var look func(path string, node any)
	look = func(path string, node any) {
		switch node := node.(type) {
		case map[string]any:
			if node["type"] == "prometheus" && node["uid"] != "${datasource}" {
				t.Errorf("%s has the data source %v", path, node["uid"])
			}
			for name, inner := range node {
				look(path+"."+name, inner)
			}
		case []any:
			for i, inner := range node {
				look(fmt.Sprint(path, "[", i, "]"), inner)
			}
		}
	}
	look("dashboard", file)
	if _, ok := file["__inputs"]; ok || file["uid"] != "caddy-matrix-presence" || file["id"] != nil {
		t.Errorf("it was exported as one that is provisioned can't be: uid %v, id %v", file["uid"], file["id"])
	}
}

// prometheus is a running one.
type prometheus struct {
	t   *testing.T
	url string
}

// startPrometheus starts one that scrapes a sidecar each second.
func startPrometheus(t *testing.T, s *sidecar.Sidecar) *prometheus {
	t.Helper()
	program := prometheusProgram(t, "prometheus")
	rules, err := os.ReadFile(contrib("prometheus/rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	type running struct {
		*process.Process
		url string
	}
	p, err := process.Retry(func() (running, error) {
		addresses, err := process.FreeAddresses(1)
		if err != nil {
			return running{}, err
		}
		dir := t.TempDir()
		config := fmt.Sprintf("global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: [rules.yml]\n"+
			"scrape_configs:\n  - job_name: presence\n    static_configs:\n      - targets: [%q]\n", s.Admin)
		for name, text := range map[string]string{"prometheus.yml": config, "rules.yml": string(rules)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				return running{}, err
			}
		}
		cmd := program("--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addresses[0])
		started, err := process.Start("Prometheus", cmd, filepath.Join(dir, "log"))
		if err != nil {
			return running{}, err
		}
		url := "http://" + addresses[0]
		if err := started.Ready(t.Context(), url+"/-/ready"); err != nil {
			started.Stop()
			return running{}, err
		}
		return running{started, url}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Cleanup(p.Stop)
	return &prometheus{t, p.url}
}

// ask asks Prometheus's API, and reads its data.
func (p *prometheus) ask(path string, query url.Values, data any) error {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.url+"/api/v1/"+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Error string
		Data  any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// query returns how many series an expression gives that have a number.
func (p *prometheus) query(expr string) (numbers int, err error) {
	p.t.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	if err := p.ask("query", url.Values{"query": {expr}}, &data); err != nil {
		return 0, err
	}
	for _, one := range data.Result {
		if one.Value[1] != "NaN" {
			numbers++
		}
	}
	return numbers, nil
}

var (
	// selector finds metrics with what is asked of their labels. Those of Caddy itself are others'.
	selector = regexp.MustCompile(`\b(?:cache:)?caddy_matrix_presence_[a-z0-9_]+(?::[a-z0-9_]+)?(?:\{[^}]*\})?`)
	// matcher finds what is asked of a label.
	matcher = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
	// grouping finds the labels by which something is grouped.
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
)

// missing returns what an expression asks for that isn't there: metrics, labels, values of labels.
func (p *prometheus) missing(expr string) (problems []string) {
	p.t.Helper()
	labels := make(map[string]bool)
	has := func(one string) bool {
		var series []map[string]string
		if err := p.ask("series", url.Values{"match[]": {one}}, &series); err != nil {
			p.t.Fatalf("%s: %v", one, err)
		}
		for _, s := range series {
			for name := range s {
				labels[name] = true
			}
		}
		return len(series) > 0
	}
	for _, one := range selector.FindAllString(expr, -1) {
		name, asked, _ := strings.Cut(one, "{")
		if !has(name) {
			problems = append(problems, "no metric "+name)
			continue
		}
		for _, m := range matcher.FindAllStringSubmatch(asked, -1) {
			for _, value := range strings.Split(m[3], "|") {
				operator := strings.NewReplacer("!~", "=~", "!=", "=").Replace(m[2])
				if !has(fmt.Sprintf("%s{%s%s%q}", name, m[1], operator, value)) {
					problems = append(problems, fmt.Sprintf("%s has no %s %q", name, m[1], value))
				}
			}
		}
	}
	for _, group := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, label := range strings.Split(group[1], ", ") {
			if !labels[label] {
				problems = append(problems, "no label "+label)
			}
		}
	}
	return problems
}

// inPanel puts what Grafana would into a query.
func inPanel(expr string) string {
	return strings.NewReplacer("$__rate_interval", "30s", "$__range", "30s", "$job", "presence", "$instance", ".+", "$cache", ".+").Replace(expr)
}

// The names of metrics and labels in alerts and dashboard are held against a real instance, which a
// real Prometheus has scraped: one that was renamed is found here, and not by an admin whose
// alert never fired.
func TestAlertsAndDashboardAskForWhatIsThere(t *testing.T) {
	_, upstream := serveHomeserver(t)
	s := suite.Sidecar(t)(process.Retry(func() (*sidecar.Sidecar, error) {
		addresses, err := process.FreeAddresses(1)
		if err != nil {
			return nil, err
		}
		return sidecar.StartCaddyfile(t.Context(), caddyfile(upstream, "", everyOption, everyGuest(addresses[0], upstream)))
	}))
	p := startPrometheus(t, s)
	panels, variables, _ := dashboard(t)
	var last []string
	suite.EventuallyNil(t, "each query gives a number", func() error {
		drive(t, s)
		last = nil
		for _, one := range panels {
			numbers, err := p.query(inPanel(one.expr))
			if err != nil || numbers == 0 { // it answers with an error while it starts
				last = append(last, fmt.Sprint(one.title, ": ", one.expr, " ", err))
			}
		}
		for _, rule := range readRules(t) {
			if rule.Record == "" {
				continue
			}
			if numbers, err := p.query(rule.Record); err != nil || numbers == 0 {
				last = append(last, fmt.Sprint(rule.Record, " ", err))
			}
		}
		if len(last) > 0 {
			return fmt.Errorf("no data: %s", strings.Join(last, "; "))
		}
		return nil
	})
	for _, one := range panels {
		for _, problem := range p.missing(inPanel(one.expr)) {
			t.Errorf("the panel %s: %s", one.title, problem)
		}
	}
	for _, rule := range readRules(t) {
		for _, problem := range p.missing(rule.Expr) {
			t.Errorf("the rule %s%s: %s", rule.Record, rule.Alert, problem)
		}
		for label := range labelsNamed(rule.Annotations["summary"]) {
			if !strings.Contains(rule.Expr, label) && !strings.Contains(rule.Expr, "cache:") {
				t.Errorf("the summary of %s names a label that it has not: %s", rule.Alert, label)
			}
		}
	}
	for _, variable := range variables {
		for _, problem := range p.missing(inPanel(variable)) {
			t.Errorf("the variable %s: %s", variable, problem)
		}
	}
	rulesAreHealthy(p)
	aRenamedMetricIsFound(p)
	wellFormed(t, s)
}

// labelsNamed are the labels that a text of an alert names.
func labelsNamed(text string) map[string]bool {
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile(`\$labels\.([a-z]+)`).FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
	return found
}

// rulesAreHealthy fails if Prometheus could not evaluate one.
func rulesAreHealthy(p *prometheus) {
	p.t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.ask("rules", nil, &data); err != nil {
		p.t.Fatal(err)
	}
	for _, group := range data.Groups {
		for _, rule := range group.Rules {
			if rule.Health == "err" {
				p.t.Errorf("%s: %s", rule.Name, rule.LastError)
			}
		}
	}
}

// aRenamedMetricIsFound tries the test itself.
func aRenamedMetricIsFound(p *prometheus) {
	p.t.Helper()
	for expr, want := range map[string]string{
		`rate(caddy_matrix_presence_spared_total[5m])`:                          "no metric caddy_matrix_presence_spared_total",
		`caddy_matrix_presence_outcomes_total{route="read",outcome=~"hit|hot"}`: `caddy_matrix_presence_outcomes_total has no outcome "hot"`,
		`caddy_matrix_presence_saved_total{server="a"}`:                         `caddy_matrix_presence_saved_total has no server "a"`,
		`sum by (cache, tabel) (caddy_matrix_presence_entries)`:                 "no label tabel",
	} {
		if got := p.missing(expr); !slices.Contains(got, want) {
			p.t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

// wellFormed fails if promtool minds how the metrics are written.
func wellFormed(t *testing.T, s *sidecar.Sidecar) {
	t.Helper()
	text, err := s.AskAdmin(t.Context(), http.MethodGet, "/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := prometheusProgram(t, "promtool")("check", "metrics")
	cmd.Stdin = strings.NewReader(string(text))
	out, _ := cmd.CombinedOutput() // it minds some of Caddy's
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "caddy_matrix_presence_") {
			t.Errorf("promtool check metrics: %s", line)
		}
	}
}

// everyGuest is a site that has a feed and a cluster, of which there are no metrics otherwise. No Redis answers.
func everyGuest(listen, upstream string) string {
	return `http://` + listen + ` {
	bind 127.0.0.1
	matrix_presence {
		feed redis {
			address 127.0.0.1:1
			server_name example.com
		}
		cluster redis {
			address 127.0.0.1:1
			secret 0123456789abcdef0123456789abcdef
		}
		cache {
			name guests.example.com
		}
	}
	reverse_proxy ` + upstream + `
}
`
}

// everyOption has everything counted that can be, but for feeds and clusters.
const everyOption = `write_limit 60/1m burst 1
		brown_out on
		over_limit coalesce
		sync_presence limit
		homeserver synapse
		preflight local`

// drive sends what is counted.
func drive(t *testing.T, s *sidecar.Sidecar) {
	t.Helper()
	for range 3 {
		get(t, s, "bob-token", scripted.Alice)
		put(t, s, "alice-token", scripted.Alice)
	}
	get(t, s, "made-up", scripted.Alice)
	do(t, s, "GET", "/_matrix/client/v3/sync", "bob-token", "")
}
