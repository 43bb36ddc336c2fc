package freshness

// Result is one contender on one phase of a shape.
type Result struct {
	Homeserver string `json:"homeserver"`
	Shape      string `json:"shape"`
	Phase      string `json:"phase,omitempty"`
	What       string `json:"what"`
	Contender  string `json:"contender"`
	Bound      string `json:"bound"`
	// Planned is how many reads there were to do, Reads how many were done in Seconds.
	Planned int     `json:"planned"`
	Reads   int     `json:"reads"`
	Writes  int     `json:"writes"`
	Seconds float64 `json:"seconds"`
	// Upstream is how many requests reached the homeserver, without the writes that
	// had to.
	Upstream int64 `json:"upstream"`
	// Leaks, Stale, AgoOff, WronglyRefused and Failed count wrong answers, each
	// answer once.
	Leaks          int `json:"leaks"`
	Stale          int `json:"stale"`
	AgoOff         int `json:"last_active_ago_off"`
	WronglyRefused int `json:"wrongly_refused"`
	Failed         int `json:"failed"`
	// ProxyCPU and HomeserverCPU are for a read, in microseconds.
	ProxyCPU      float64 `json:"proxy_cpu_us"`
	HomeserverCPU float64 `json:"homeserver_cpu_us"`
	P50           float64 `json:"p50_us"`
	P99           float64 `json:"p99_us"`
}

// UpstreamPer1000 is how many requests reached the homeserver for 1,000 reads.
func (r Result) UpstreamPer1000() float64 {
	return float64(r.Upstream) / float64(max(1, r.Reads)) * 1000
}

// Wrong is the number of wrong answers.
func (r Result) Wrong() int { return r.Leaks + r.Stale + r.AgoOff + r.WronglyRefused + r.Failed }
