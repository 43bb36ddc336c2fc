package testkit

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// Logs keeps what is logged by a [slog.Logger] of a level or above. It is safe for use by
// several goroutines.
type Logs struct {
	level slog.Level

	mu      sync.Mutex // guards entries
	entries []LogEntry
}

// LogEntry is a line of a log.
type LogEntry struct {
	Level   slog.Level
	Message string
	Fields  map[string]string
}

// NewLogs returns a logger and what it has logged.
func NewLogs(level slog.Level) (*slog.Logger, *Logs) {
	logs := &Logs{level: level}
	return slog.New(logs), logs
}

// All returns all lines.
func (l *Logs) All() []LogEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]LogEntry(nil), l.entries...)
}

// Count returns how many messages contain a text.
func (l *Logs) Count(text string) (n int) {
	for _, entry := range l.All() {
		if strings.Contains(entry.Message, text) {
			n++
		}
	}
	return n
}

// Enabled implements slog.Handler.
func (l *Logs) Enabled(_ context.Context, level slog.Level) bool { return level >= l.level }

// Handle implements slog.Handler.
func (l *Logs) Handle(_ context.Context, record slog.Record) error {
	entry := LogEntry{record.Level, record.Message, make(map[string]string)}
	record.Attrs(func(a slog.Attr) bool {
		entry.Fields[a.Key] = fmt.Sprint(a.Value)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, entry)
	return nil
}

// WithAttrs implements slog.Handler. No logger of ours has any.
func (l *Logs) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler. No logger of ours has any.
func (l *Logs) WithGroup(string) slog.Handler { return l }
