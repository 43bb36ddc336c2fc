package identity

import "github.com/caddy-matrix/caddy-matrix-presence/internal/matrix"

// Session is whose a credential is: a user, or "", and which of the user's devices.
type Session struct {
	UserID string
	Device [16]byte
}

// LastSession returns what is remembered of a credential, also when that has expired.
func (t *Table) LastSession(c matrix.Credential) (last Session) {
	if last.UserID = t.LastKnown(c); last.UserID != "" {
		last.Device = t.DeviceOf(c, last.UserID)
	}
	return last
}

// DeviceOf tells the devices of a user apart, by the credential. The parameters of an
// ordinary token have no effect, so that nobody has more devices by making them up.
func (t *Table) DeviceOf(c matrix.Credential, userID string) [16]byte {
	if plain := (matrix.Credential{Token: c.Token}); t.LastKnown(plain) == userID {
		c = plain
	}
	return t.Fingerprint(c)
}
