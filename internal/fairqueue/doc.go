// Package fairqueue lets only so many in at a time, by turns of their clients.
package fairqueue
