package process

import "syscall"

// groupOfItsOwn also makes the kernel kill the server when the thread that
// started it ends. The Go runtime keeps its threads, so that is when the program
// ends.
func groupOfItsOwn() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
