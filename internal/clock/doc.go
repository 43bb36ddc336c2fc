// Package clock is a clock that counts the time in which the machine was suspended.
package clock
