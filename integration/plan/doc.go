// Package plan holds what presence-plan answers against laws that must hold of any load, see
// internal/plan. What it predicts is compared with real homeservers by bench/relief.
package plan
