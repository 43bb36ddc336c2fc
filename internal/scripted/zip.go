package scripted

import (
	"bytes"
	"compress/gzip"
	"io"
)

// Zip returns a text in gzip coding.
func Zip(text string) string {
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, _ = io.WriteString(zip, text)
	_ = zip.Close()
	return packed.String()
}
