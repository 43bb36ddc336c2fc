package traffic

import "math/rand/v2"

// zipfExponent is the one of most published web traces, near 1; the source needs
// more than 1.
const zipfExponent = 1.1

// Workload says how requests are drawn.
type Workload struct {
	Kind             Kind
	Targets, Viewers int
	// First is the first target.
	First User
	// Zipf draws a few targets often and most of them rarely, the first the most.
	// Without it all are as likely. Viewers are always as likely.
	Zipf bool
	// Writes is the share of requests that are writes, 0 to 1.
	Writes float64
}

// Draw returns n requests. The same seed gives the same ones.
func (w Workload) Draw(n int, seed uint64) []Request {
	random := rand.New(rand.NewPCG(seed, 0))
	target := func() int { return random.IntN(w.Targets) }
	if w.Zipf {
		zipf := rand.NewZipf(random, zipfExponent, 1, uint64(w.Targets-1))
		target = func() int { return int(zipf.Uint64()) }
	}
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Kind: w.Kind, Target: w.First + User(target()), Viewer: Viewer(random.IntN(w.Viewers))}
		if w.Writes > 0 && random.Float64() < w.Writes {
			requests[i].Kind = Write
		}
	}
	return requests
}

// Each returns the request of every viewer for every target once, in an order
// that favours neither.
func (w Workload) Each(seed uint64) []Request {
	requests := make([]Request, 0, w.Targets*w.Viewers)
	for t := range w.Targets {
		for v := range w.Viewers {
			requests = append(requests, Request{Kind: w.Kind, Target: w.First + User(t), Viewer: Viewer(v)})
		}
	}
	random := rand.New(rand.NewPCG(seed, 1))
	random.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
	return requests
}
