// Package release tries what `make release` made as an admin would: it installs the deb into
// a clean Debian folder, points it at a real Synapse, upgrades and removes it, also under a real
// systemd, which puts the unit into its sandbox; it looks into
// the rpm and the apk; it unpacks the image by a tool that isn't ours and runs it as its
// user on a read-only root; and it compares two builds byte for byte.
//
// `make release-test` runs it, as root on Linux, with -dist. Without that flag, as in `make
// test`, there is nothing to try, and the tests are skipped.
package release
