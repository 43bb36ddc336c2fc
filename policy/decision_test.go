package policy

import (
	"fmt"
	"slices"
	"testing"
)

// everyRead calls f with each way that a read can go: with the steps, and the facts at its end.
func everyRead(f func(facts ReadFacts, steps []ReadStep)) {
	var walk func(facts ReadFacts, steps []ReadStep)
	walk = func(facts ReadFacts, steps []ReadStep) {
		step := DecideRead(&facts)
		steps = append(slices.Clip(steps), step)
		if step.Ends() || len(steps) > int(ReadSteps) {
			f(facts, steps)
			return
		}
		for _, next := range answersToRead(facts, step) {
			walk(next, steps)
		}
	}
	for n := range 64 {
		is := func(i int) bool { return n>>i&1 == 1 }
		facts := ReadFacts{Cached: is(0), Limited: is(1), StaleIfError: is(2), Canonical: is(3)}
		if is(4) {
			facts.BrownOut, facts.Failing = BrownOutHold, is(5)
		} else if is(5) {
			facts.BrownOut = BrownOutSpare
		}
		for credential := CredentialMissing; credential <= CredentialCertain; credential++ {
			facts.Credential = credential
			walk(facts, nil)
		}
	}
}

// answersToRead returns what the facts can be after a step.
func answersToRead(facts ReadFacts, step ReadStep) (next []ReadFacts) {
	with := func(set func(f *ReadFacts)) {
		after := facts
		set(&after)
		next = append(next, after)
	}
	switch step {
	case ReadLookForBody:
		for b := BodyGood; b <= BodyBad; b++ {
			with(func(f *ReadFacts) { f.Body = b })
		}
	case ReadAskOwner, ReadStaleOwner:
		for o := OwnerKnown; o <= OwnerShed; o++ {
			if step == ReadAskOwner || o != OwnerDown && o != OwnerShed { // memory doesn't fail, and needs no place
				with(func(f *ReadFacts) { f.Owner = o })
			}
		}
	case ReadTakeBudget, ReadTakeBudgets:
		for b := BudgetLeft; b <= BudgetEmpty; b++ {
			with(func(f *ReadFacts) { f.Budget = b })
		}
		if step == ReadTakeBudgets {
			with(func(f *ReadFacts) { f.Budget, f.Owner = BudgetLeft, OwnerGone })
		}
	case ReadCheckClient:
		for b := BudgetLeft; b <= BudgetEmpty; b++ {
			with(func(f *ReadFacts) { f.Client = b })
		}
	case ReadLookUp:
		for found := FoundAnswer; found <= FoundOlder; found++ {
			if found != FoundOlder || facts.BrownOut >= BrownOutSpare {
				with(func(f *ReadFacts) { f.Found = found })
			}
		}
	case ReadTakePlace:
		for p := PlaceTaken; p <= PlaceFull; p++ {
			with(func(f *ReadFacts) { f.Place = p })
		}
	case ReadFetch:
		for fetched := FetchOwn; fetched <= FetchShed; fetched++ {
			with(func(f *ReadFacts) { f.Fetched = fetched })
			if fetched != FetchShed || facts.Failing {
				with(func(f *ReadFacts) { f.Fetched, f.Stale = fetched, true })
			}
		}
	}
	return next
}

// Whatever is found out, a read ends, no fact is asked for twice, and nothing is done before its time.
func TestEveryRead(t *testing.T) {
	ends := make(map[ReadStep]bool)
	everyRead(func(f ReadFacts, steps []ReadStep) {
		end := steps[len(steps)-1]
		ends[end] = true
		at := func(s ReadStep) int { return slices.Index(steps, s) }
		for law, broken := range map[string]bool{
			"ends":                              !end.Ends(),
			"asks once":                         len(slices.Compact(slices.Sorted(slices.Values(steps)))) != len(steps),
			"takes no budget of nobody":         at(ReadTakeBudget) >= 0 && f.Owner != OwnerKnown,
			"reads memory for an owner":         at(ReadLookUp) >= 0 && (f.Owner != OwnerKnown || f.Budget != BudgetLeft),
			"waits for a body first":            at(ReadLookForBody) > 0,
			"lets no body have a place":         at(ReadTakePlace) >= 0 && f.Body != BodyGood,
			"fetches what isn't there":          at(ReadFetch) >= 0 && f.Found != FoundNothing,
			"answers within the budget":         (end == ReadAnswer || end == ReadAnswerStale || end == ReadForward || end == ReadShare) && f.Budget != BudgetLeft,
			"answers what is asked for":         (end == ReadAnswer || end == ReadAnswerStale) && (f.Body != BodyGood || !f.Canonical || !f.Cached),
			"limits only over a budget":         end == ReadLimit && f.Budget != BudgetEmpty && f.Client != BudgetEmpty && f.Owner != OwnerLimited,
			"is never over a budget":            f.Budget == BudgetEmpty && end != ReadLimit,
			"leaves odd spellings alone":        !f.Canonical && (end == ReadRefuseMissing || end == ReadRefuseUnknown),
			"does nothing if it is off":         !f.Cached && !f.Limited && f.BrownOut < BrownOutHold && (len(steps) != 1 || end != ReadPassOff),
			"passes nothing on without a place": end.passesOn() && f.BrownOut >= BrownOutHold && f.Place != PlaceTaken,
			"sheds only what has no place":      end == ReadShed && f.Place != PlaceFull && f.Fetched != FetchShed && f.Owner != OwnerShed && f.Body != BodyBad,
			"asks for no place in vain":         at(ReadTakePlace) >= 0 && (f.BrownOut < BrownOutHold || !end.passesOn() && end != ReadShed),
			"shows what is older in a brown-out": end == ReadAnswerOlder && (f.BrownOut < BrownOutSpare || f.Found != FoundOlder ||
				f.Owner != OwnerKnown || f.Budget != BudgetLeft || f.Body != BodyGood),
			"shows what is stale for a failure": end == ReadAnswerStale && f.Fetched == FetchShed && !f.Failing,
			"refuses only unknown tokens":       end == ReadRefuseUnknown && f.Owner != OwnerRejected,
		} {
			if broken {
				t.Errorf("a read doesn't keep to %q: %+v, %v", law, f, steps)
			}
		}
	})
	for s := readFacts; s < ReadSteps; s++ {
		if !ends[s] {
			t.Errorf("no read ends by step %d", s)
		}
	}
}

// everyWrite is everyRead for writes.
func everyWrite(f func(facts WriteFacts, steps []WriteStep)) {
	var walk func(facts WriteFacts, steps []WriteStep)
	walk = func(facts WriteFacts, steps []WriteStep) {
		step := DecideWrite(&facts)
		steps = append(slices.Clip(steps), step)
		if step.Ends() || len(steps) > int(WriteSteps) {
			f(facts, steps)
			return
		}
		for _, next := range answersToWrite(facts, step) {
			walk(next, steps)
		}
	}
	for credential := CredentialMissing; credential <= CredentialCertain; credential++ {
		walk(WriteFacts{Credential: credential}, nil)
		walk(WriteFacts{Credential: credential, BrownOut: true}, nil)
		walk(WriteFacts{Credential: credential, Announced: true}, nil)
	}
}

func answersToWrite(facts WriteFacts, step WriteStep) (next []WriteFacts) {
	with := func(set func(f *WriteFacts)) {
		after := facts
		set(&after)
		next = append(next, after)
	}
	switch step {
	case WriteAskOwner:
		for o := OwnerRejected; o <= OwnerShed; o++ {
			with(func(f *WriteFacts) { f.Owner = o })
		}
		for n := range 8 {
			with(func(f *WriteFacts) {
				f.Owner, f.Own, f.Absorbs, f.Coalesces = OwnerKnown, n&1 != 0, n&2 != 0, n&4 != 0
			})
		}
	case WriteReadBody:
		for b := BodyGood; b <= BodyBad; b++ {
			with(func(f *WriteFacts) { f.Body = b })
		}
	case WriteLookAtQueue:
		for q := QueueEmpty; q <= QueueWaits; q++ {
			with(func(f *WriteFacts) { f.Queue = q })
		}
	case WriteCompare:
		for r := RepeatNothing; r <= RepeatChanges; r++ {
			with(func(f *WriteFacts) { f.Repeat = r })
		}
	case WriteTakePlace:
		for p := PlaceTaken; p <= PlaceFull; p++ {
			with(func(f *WriteFacts) { f.Place = p })
		}
	case WriteTakeBudget:
		for b := BudgetLeft; b <= BudgetEmpty; b++ {
			with(func(f *WriteFacts) { f.Budget = b })
		}
	case WriteLetWait:
		for w := WaitAccepted; w <= WaitRefused; w++ {
			with(func(f *WriteFacts) { f.Wait = w })
		}
	}
	return next
}

// Whatever is found out, a write ends, no fact is asked for twice, and nothing is done before its time.
func TestEveryWrite(t *testing.T) {
	ends := make(map[WriteStep]bool)
	everyWrite(func(f WriteFacts, steps []WriteStep) {
		end := steps[len(steps)-1]
		ends[end] = true
		at := func(s WriteStep) int { return slices.Index(steps, s) }
		body, budget := at(WriteReadBody), at(WriteTakeBudget)
		for law, broken := range map[string]bool{
			"ends":                             !end.Ends(),
			"asks once":                        len(slices.Compact(slices.Sorted(slices.Values(steps)))) != len(steps),
			"looks at nothing but one's own":   len(steps) > 2 && (f.Owner != OwnerKnown || !f.Own),
			"goes through if all is in order":  end == WriteForward && (!f.Own || f.Body != BodyGood || f.Queue != QueueEmpty || f.Budget != BudgetLeft),
			"charges before the body":          budget >= 0 && body >= 0 && budget > body != (f.Absorbs || f.Coalesces || f.BrownOut || f.Announced),
			"has the body before a place":      f.BrownOut && at(WriteTakePlace) >= 0 && f.Body != BodyGood,
			"charges no repeat":                end == WriteAbsorb && (budget >= 0 || f.Repeat != RepeatNothing || !f.Absorbs),
			"doesn't overtake":                 f.Queue == QueueWaits && end != WriteLimit && end != WriteCoalesce,
			"waits only if that is configured": end == WriteCoalesce && (!f.Coalesces || f.Wait != WaitAccepted || f.Body != BodyGood),
			"is sent with a place":             end == WriteForward && f.Place != PlaceTaken,
			"needs no budget to be shed":       f.Place == PlaceFull && budget >= 0,
			"sheds only what has no place":     end == WriteShed && f.Place != PlaceFull && f.Owner != OwnerShed,
			"refuses another's":                f.Owner == OwnerKnown && !f.Own && end != WriteRefuseOther,
			"fails closed":                     f.Owner != OwnerKnown && slices.Contains([]WriteStep{WriteForward, WriteAbsorb, WriteCoalesce}, end),
		} {
			if broken {
				t.Errorf("a write doesn't keep to %q: %+v, %v", law, f, steps)
			}
		}
	})
	for s := writeFacts; s < WriteSteps; s++ {
		if !ends[s] {
			t.Errorf("no write ends by step %d", s)
		}
	}
}

// The order in which things are found out, by examples.
func TestStepsOfAWrite(t *testing.T) {
	own := WriteFacts{Credential: CredentialCertain, Owner: OwnerKnown, Own: true}
	with := func(change func(f *WriteFacts)) WriteFacts {
		f := own
		change(&f)
		return f
	}
	for _, tt := range []struct {
		facts WriteFacts // but for these, all that is found out is good
		want  []WriteStep
	}{
		{own, []WriteStep{WriteLookAtQueue, WriteTakePlace, WriteTakeBudget, WriteReadBody, WriteForward}},
		{
			with(func(f *WriteFacts) { f.Absorbs = true }),
			[]WriteStep{WriteReadBody, WriteLookAtQueue, WriteCompare, WriteTakePlace, WriteTakeBudget, WriteForward},
		},
		{
			with(func(f *WriteFacts) { f.Coalesces, f.Budget = true, BudgetEmpty }),
			[]WriteStep{WriteReadBody, WriteLookAtQueue, WriteTakePlace, WriteLetWait, WriteCoalesce},
		},
		{
			with(func(f *WriteFacts) { f.Coalesces, f.Place = true, PlaceFull }),
			[]WriteStep{WriteReadBody, WriteLookAtQueue, WriteLetWait, WriteCoalesce},
		},
		{
			with(func(f *WriteFacts) { f.BrownOut, f.Place = true, PlaceFull }),
			[]WriteStep{WriteReadBody, WriteLookAtQueue, WriteShed},
		},
		{
			with(func(f *WriteFacts) { f.BrownOut = true }),
			[]WriteStep{WriteReadBody, WriteLookAtQueue, WriteTakePlace, WriteTakeBudget, WriteForward},
		},
		{
			with(func(f *WriteFacts) { f.Coalesces, f.Queue = true, QueueWaits }),
			[]WriteStep{WriteReadBody, WriteLetWait, WriteCoalesce},
		},
		{with(func(f *WriteFacts) { f.Queue = QueueWaits }), []WriteStep{WriteLimit}},
		{with(func(f *WriteFacts) { f.Budget = BudgetEmpty }), []WriteStep{WriteLookAtQueue, WriteTakePlace, WriteLimit}},
		{with(func(f *WriteFacts) { f.Own, f.Absorbs = false, true }), []WriteStep{WriteRefuseOther}},
		{WriteFacts{Credential: CredentialUncertain}, []WriteStep{WriteRefuseUncertain}},
	} {
		var steps []WriteStep
		f := tt.facts
		for len(steps) == 0 || !steps[len(steps)-1].Ends() {
			step := DecideWrite(&f)
			steps = append(steps, step)
			switch step {
			case WriteReadBody:
				f.Body = BodyGood
			case WriteLookAtQueue:
				f.Queue = QueueEmpty
			case WriteCompare:
				f.Repeat = RepeatChanges
			case WriteTakePlace:
				f.Place = PlaceTaken
			case WriteTakeBudget:
				f.Budget = BudgetLeft
			case WriteLetWait:
				f.Wait = WaitAccepted
			}
		}
		if fmt.Sprint(steps) != fmt.Sprint(tt.want) {
			t.Errorf("%+v: steps %v, want %v", tt.facts, steps, tt.want)
		}
	}
}
