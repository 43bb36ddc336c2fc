// Package deploy holds the pages under docs/deploy against the real tools: nginx and HAProxy
// run with what their pages say, in front of the built binary; what Docker Compose and
// Kubernetes read is read by their own parsers. A test takes what it tries from the page
// itself, so that a page can't be wrong where its test is right.
package deploy
