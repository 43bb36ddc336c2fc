package homeserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/checkout"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/debian"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/progress"
)

// services are the programs that a busy Synapse needs beside itself.
type services struct{ initdb, postgres, redis string }

// findServices looks for them where Debian and others have them.
func findServices() (found services, err error) {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Reverse(folders) // the newest first, as long as their numbers have two digits
	folders = append(filepath.SplitList(os.Getenv("PATH")), folders...)
	for name, path := range map[string]*string{"initdb": &found.initdb, "postgres": &found.postgres, "redis-server": &found.redis} {
		for _, folder := range folders {
			if candidate := filepath.Join(folder, name); *path == "" && isProgram(candidate) {
				*path = candidate
			}
		}
		if *path == "" {
			err = errors.Join(err, fmt.Errorf("there is no %s", name))
		}
	}
	if found.initdb != "" { // the two must be of one version
		found.postgres = filepath.Join(filepath.Dir(found.initdb), "postgres")
	}
	return found, err
}

func isProgram(path string) bool {
	info, err := os.Stat(path) //nolint:gosec // G703: PATH is the developer's
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// installServices returns them, and installs Debian's packages if they aren't there and this is root, as in CI. No
// service is started by that.
func installServices(ctx context.Context, out io.Writer) (services, error) {
	found, missing := findServices()
	if missing == nil {
		return found, nil
	}
	if os.Getuid() != 0 {
		return found, unavailable{fmt.Errorf("looking for PostgreSQL and Redis (Debian: postgresql, redis-server): %w", missing)}
	}
	err := progress.While(out, "installing PostgreSQL and Redis; the first time this takes a minute", func() error {
		return aptInstall(ctx, "postgresql", "redis-server")
	})
	if err != nil {
		return found, unavailable{err}
	}
	if found, missing = findServices(); missing != nil {
		return found, unavailable{missing}
	}
	return found, nil
}

// noServices keeps packages from starting what they bring (policy-rc.d: 101 is "not allowed").
const noServices = "#!/bin/sh\nexit 101\n"

func aptInstall(ctx context.Context, packages ...string) error {
	unlock, err := checkout.Lock(debian.Lock)
	if err != nil {
		return err
	}
	defer unlock()
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte(noServices), 0o755); err != nil {
			return fmt.Errorf("keeping services from being started: %w", err)
		}
		defer os.Remove(policy)
	}
	apt := func(args ...string) error {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		_, err := checkout.Output(cmd)
		return err
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if apt(install...) == nil {
		return nil
	}
	if err := apt("update"); err != nil {
		return fmt.Errorf("getting the list of packages: %w", err)
	}
	if err := apt(install...); err != nil {
		return fmt.Errorf("installing packages: %w", err)
	}
	return nil
}

// asNobody has a command run as a user without rights, if this is root: PostgreSQL refuses to run as root.
// It makes the folder that user's.
func asNobody(cmd *exec.Cmd, folder string) error {
	if os.Getuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return fmt.Errorf("looking for a user without rights: %w", err)
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 31)
	if err != nil {
		return fmt.Errorf("reading the number of a user: %w", err)
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 31)
	if err != nil {
		return fmt.Errorf("reading the number of a group: %w", err)
	}
	if err := os.Chown(folder, int(uid), int(gid)); err != nil {
		return fmt.Errorf("giving a folder to another user: %w", err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return nil
}

// startPostgres starts a PostgreSQL that listens at a socket in the folder "socket" only, and has the user synapse.
func startPostgres(ctx context.Context, programs services, dir string) (*process.Process, error) {
	if err := os.Chmod(dir, 0o755); err != nil { // for the other user to come through
		return nil, fmt.Errorf("opening the folder of the database: %w", err)
	}
	socket := filepath.Join(dir, "socket")
	if err := os.Mkdir(socket, 0o755); err != nil {
		return nil, fmt.Errorf("making a folder for the database: %w", err)
	}
	data := filepath.Join(socket, "data")
	initdb := exec.CommandContext(ctx, programs.initdb, "-D", data, "-U", "synapse", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
	initdb.Dir = socket
	if err := asNobody(initdb, socket); err != nil {
		return nil, err
	}
	if _, err := checkout.Output(initdb); err != nil {
		return nil, fmt.Errorf("making a database: %w", err)
	}
	cmd := exec.Command(programs.postgres, "-D", data, "-k", socket, "-h", "", "-c", "fsync=off", "-c", "max_connections=100")
	cmd.Dir = socket
	if err := asNobody(cmd, socket); err != nil {
		return nil, err
	}
	p, err := process.Start("postgresql", cmd, filepath.Join(dir, "postgresql.log"))
	if err != nil {
		return nil, err
	}
	if err := accepts(ctx, p, "unix", filepath.Join(socket, ".s.PGSQL.5432")); err != nil {
		p.Stop()
		return nil, fmt.Errorf("starting postgresql: %w", err)
	}
	return p, nil
}

// startRedis starts a Redis that keeps nothing, with the users of a homeserver's.
func startRedis(ctx context.Context, programs services, dir, address string) (*process.Process, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(programs.redis, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no",
		"--user", "default", "on", ">"+RedisPassword, "~*", "&*", "+@all",
		"--user", FeedUser, "on", ">"+FeedPassword, "resetchannels", "&"+ServerName, "-@all", "+subscribe", "+unsubscribe", "+ping")
	cmd.Dir = dir
	p, err := process.Start("redis", cmd, filepath.Join(dir, "redis.log"))
	if err != nil {
		return nil, err
	}
	if err := accepts(ctx, p, "tcp", address); err != nil {
		p.Stop()
		return nil, fmt.Errorf("starting redis: %w", err)
	}
	return p, nil
}
