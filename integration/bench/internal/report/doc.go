// Package report shows results: as aligned tables on a terminal, as charts,
// and as tables in the documentation.
//
// The documentation is written by people and its figures are not: what stands
// between a marker <!-- bench:begin NAME --> and <!-- bench:end --> is replaced by
// the table of that name, and nothing else is touched. All figures in it are so of
// one run.
package report
