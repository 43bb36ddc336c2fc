package model

// Takes reports whether the homeserver takes the body of a write.
func (d *Dialect) Takes(body string) bool {
	_, good := d.write([]byte(body))
	return good
}
