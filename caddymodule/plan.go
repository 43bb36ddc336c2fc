package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// plan says which store each handler of a configuration gets.
//
// It is made for all of them when the first is provisioned. Caddy provisions the servers in
// no order, and what one handler gets must not depend on who came before:
//
//	1 store: a.example.com b.example.com, until now one site
//	2 configuration: a site of each
//	3 either might come first, and take the store over
//
// The stores that are there are looked at, not changed: the configuration may yet fail.
type plan struct {
	id    planID
	app   *caddyhttp.App
	sites []*site
	taken int // by how many handlers, that have not given it back

	// fields are those that the sites of a server name. They are looked for once: to do it for
	// each of 1,000 sites took 20 seconds.
	fields map[*caddyhttp.Server]*siteFields

	// doubts have, of each store that hasn't heard of all that came to its sites, what has it doubt all, once.
	doubts map[*gateway.Store]func()
}

// planID tells a plan from others, and keeps nothing of it.
type planID *byte

// plans are those of the configurations that are running, or being provisioned.
var plans = struct {
	sync.Mutex // guards all below, and the tenants of the stores
	of         map[*caddyhttp.App]*plan
}{of: make(map[*caddyhttp.App]*plan)}

// planFor returns the plan of the configuration that a handler is being provisioned for, and
// the handler's site. It needs the lock.
func planFor(ctx caddy.Context, name string) (*plan, *site, error) {
	var app *caddyhttp.App
	for _, module := range ctx.Modules() {
		if a, ok := module.(*caddyhttp.App); ok {
			app = a
		}
	}
	server := serverOf(ctx)
	if app == nil || server == nil {
		if name == "" {
			return nil, nil, errors.New(outsideHTTP)
		}
		p := &plan{id: new(byte), sites: []*site{{name: name}}}
		p.assign()
		return p, p.sites[0], nil
	}
	p := plans.of[app]
	if p == nil {
		p = newPlan(app)
	}
	route := routeInProgress(server)
	i := slices.IndexFunc(p.sites, func(s *site) bool {
		return s.server == server && s.route == route && s.name == name
	})
	if i < 0 {
		return nil, nil, errors.New(outsideHTTP)
	}
	s := p.sites[i]
	if s.refusal != "" {
		return nil, nil, fmt.Errorf(s.refusal, s.title())
	}
	if s.trouble != "" {
		return nil, nil, errors.New(s.trouble)
	}
	return p, s, nil
}

// fieldsIn returns the header fields that are named around a handler which is being
// provisioned.
func (p *plan) fieldsIn(server *caddyhttp.Server) *gateway.SiteFields {
	if server == nil {
		return new(gateway.SiteFields)
	}
	if p.fields == nil {
		p.fields = make(map[*caddyhttp.Server]*siteFields)
	}
	if p.fields[server] == nil {
		p.fields[server] = newSiteFields(server)
	}
	return &p.fields[server].in(server).SiteFields
}

// doubtOnce returns what has a store doubt all the first time that it is called. It needs the lock.
func (p *plan) doubtOnce(m *gateway.Store) (doubt func()) {
	if p.doubts == nil {
		p.doubts = make(map[*gateway.Store]func())
	}
	if p.doubts[m] == nil {
		p.doubts[m] = sync.OnceFunc(m.DoubtAll)
	}
	return p.doubts[m]
}

// routeInProgress returns the server's route whose handlers are being provisioned, or -1 if
// that is none of its own. Routes are provisioned in order, and a route gets its handlers when
// all of them are: the first one without is it.
func routeInProgress(server *caddyhttp.Server) int {
	return slices.IndexFunc(server.Routes, func(route caddyhttp.Route) bool {
		return len(route.Handlers) == 0 && len(route.HandlersRaw) > 0
	})
}

// newPlan makes the plan of a configuration.
func newPlan(app *caddyhttp.App) *plan {
	p := &plan{id: new(byte), app: app}
	for _, server := range slices.Sorted(maps.Keys(app.Servers)) {
		p.sites = append(p.sites, findSites(app.Servers[server])...)
	}
	// Their order in a file makes no difference.
	slices.SortStableFunc(p.sites, func(a, b *site) int {
		return cmp.Or(cmp.Compare(a.title(), b.title()), slices.Compare(a.listen, b.listen))
	})
	p.refuse()
	p.assign()
	p.agree()
	return p
}

// refuse finds the handlers that need a name.
func (p *plan) refuse() {
	for i, a := range p.sites {
		if a.name != "" {
			a.trouble = ""
			continue
		}
		if strings.Contains(a.trouble, "%") {
			a.trouble = fmt.Sprintf(a.trouble, a.title())
		}
		for _, b := range p.sites[:i] {
			trouble := ""
			switch {
			case b.name != "" || a.trouble != "" && a.route < 0 || b.trouble != "" && b.route < 0:
			case a.server == b.server && (a.route == b.route || a.meets(b) > 0):
				trouble = fmt.Sprintf(twoHandlers, a.title())
			case a.server != b.server && a.meets(b) > 0 && !(a.told && b.told) && !a.isSame(b):
				trouble = fmt.Sprintf(untoldHomeserver, a.title(), strings.Join(append(slices.Clone(b.listen), a.listen...), " and "))
			}
			a.trouble, b.trouble = cmp.Or(trouble, a.trouble), cmp.Or(trouble, b.trouble)
		}
	}
}

// assign gives each handler the name of a store: one that is there, or a new one.
func (p *plan) assign() {
	living := make(map[string][]*site)
	eachStore(func(label string, m *pooled) {
		living[label] = slices.Collect(maps.Values(m.tenants))
	})
	used := make(map[string]bool)
	for _, s := range p.sites {
		if s.name == "" {
			continue
		}
		same := func(other *site) bool { return other.name == s.name }
		if i := slices.IndexFunc(p.sites, func(other *site) bool { return same(other) && other.store != "" }); i >= 0 {
			s.store = p.sites[i].store
			continue
		}
		s.store = storeName(s.name, living, slices.DeleteFunc(slices.Clone(p.sites), func(other *site) bool { return !same(other) }), used)
		used[s.store] = true
	}
	p.assignUnnamed(living, used)
}

// storeName returns the store of the sites of a cache name. That of an unnamed site goes
// with its homeserver, if the name that it is given is the one that it has had.
func storeName(name string, living map[string][]*site, sites []*site, used map[string]bool) string {
	for _, label := range slices.Sorted(maps.Keys(living)) {
		if slices.ContainsFunc(living[label], func(tenant *site) bool { return tenant.name == name }) {
			return label
		}
	}
	if tenants, ok := living[name]; ok && meet(sites, tenants) == 0 {
		return freeLabel(name, "", living, used)
	}
	return name
}

// meet tells in how many hosts some sites meet those of the same homeserver among others that
// have no name.
func meet(sites, tenants []*site) (most int) {
	for _, s := range sites {
		for _, tenant := range tenants {
			if tenant.name == "" {
				most = max(most, s.overlap(tenant))
			}
		}
	}
	return most
}

// assignUnnamed gives the handlers without a cache name theirs.
func (p *plan) assignUnnamed(living map[string][]*site, used map[string]bool) {
	var groups [][]*site // of one homeserver each
	for _, s := range p.sites {
		if s.name != "" || s.trouble != "" {
			continue
		}
		group := []*site{s}
		groups = slices.DeleteFunc(groups, func(other []*site) bool {
			joins := slices.ContainsFunc(other, func(o *site) bool { return s.overlap(o) > 0 })
			if joins {
				group = append(other, group...)
			}
			return joins
		})
		groups = append(groups, group)
	}

	type match struct {
		hosts int
		label string
		group int
	}
	var matches []match
	for i, group := range groups {
		for label, tenants := range living {
			if hosts := meet(group, tenants); hosts > 0 && !used[label] {
				matches = append(matches, match{hosts, label, i})
			}
		}
	}
	slices.SortFunc(matches, func(a, b match) int {
		return cmp.Or(-cmp.Compare(a.hosts, b.hosts), cmp.Compare(a.label, b.label), cmp.Compare(a.group, b.group))
	})
	labels := make([]string, len(groups))
	for _, m := range matches {
		if labels[m.group] == "" && !used[m.label] {
			labels[m.group], used[m.label] = m.label, true
		}
	}
	for i, group := range groups {
		if labels[i] == "" {
			all := new(site)
			for _, s := range group {
				all.hosts, all.listen = append(all.hosts, s.hosts...), append(all.listen, s.listen...)
			}
			for _, list := range []*[]string{&all.hosts, &all.listen} {
				slices.Sort(*list)
				*list = slices.Compact(*list)
			}
			labels[i] = freeLabel(all.title(), strings.Join(all.listen, " "), living, used)
			used[labels[i]] = true
		}
		for _, s := range group {
			s.store = labels[i]
		}
	}
}

// freeLabel returns a name that no store has: the title, with the addresses if that is
// not enough, or with a number.
func freeLabel(title, addresses string, living map[string][]*site, used map[string]bool) string {
	free := func(label string) bool {
		_, lives := living[label]
		return !lives && !used[label]
	}
	if free(title) {
		return title
	}
	if addresses != "" && addresses != title {
		if title += " " + addresses; free(title) {
			return title
		}
	}
	for n := 2; ; n++ {
		if label := fmt.Sprintf("%s (%d)", title, n); free(label) {
			return label
		}
	}
}

// agree has the handlers of each store agree on which homeserver it is: what one of them names
// is what those take that name none.
func (p *plan) agree() {
	dialects := make(map[string]string)
	for _, s := range p.sites {
		if s.dialect == "auto" {
			s.dialect = ""
		}
		other := cmp.Or(dialects[s.store], s.dialect)
		if s.dialect != "" && other != s.dialect {
			s.trouble = cmp.Or(s.trouble, fmt.Sprintf("the matrix_presence handlers of the cache %s front one homeserver: it can't be both homeserver %s and homeserver %s",
				s.store, other, s.dialect))
		}
		dialects[s.store] = other
	}
	for _, s := range p.sites {
		s.dialect = dialects[s.store]
	}
}
