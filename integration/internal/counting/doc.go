// Package counting counts what reaches a real homeserver, by a hop before it that
// passes everything on.
//
// Homeservers don't count by route, and their logs cost them as much as some of the
// requests do. A hop in this process costs the homeserver nothing, and because it stands
// before the homeserver whoever asks, clients or a sidecar, the homeserver sees the same
// connections in every way that is compared.
package counting
