package homeserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/caddy-matrix/caddy-matrix-presence/integration/internal/process"
)

// Busy is a Synapse as admins run it who have many users: with PostgreSQL, Redis, and workers, one
// that writes presence and one that answers syncs. URL is that of the main process.
type Busy struct {
	Homeserver

	// PresenceURL and SyncURL are the workers that presence requests and syncs have to go to.
	PresenceURL, SyncURL string

	services   []*process.Process // in the order in which they were started
	startRedis func(ctx context.Context) (*process.Process, error)
}

// Users of the Redis of a [Busy].
const (
	RedisPassword              = "loopback-only"
	FeedUser, FeedPassword     = "presence", "loopback-only-too"
	presenceWorker, syncWorker = "presence1", "sync1"
)

// Stop ends everything.
func (b *Busy) Stop() {
	for i := len(b.services) - 1; i >= 0; i-- {
		b.services[i].Stop()
	}
	os.RemoveAll(b.dir)
}

// StopRedis kills Redis, and returns what starts it again at the same address.
func (b *Busy) StopRedis(ctx context.Context) (start func() error) {
	b.services[1].Stop()
	return func() (err error) {
		b.services[1], err = b.startRedis(ctx)
		return err
	}
}

// StartBusySynapse starts one, and installs first what was never installed. Where something can't be had the
// error is ErrUnavailable.
func StartBusySynapse(ctx context.Context, opts Options) (*Busy, error) {
	python, err := InstallSynapse(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	programs, err := installServices(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	return process.Retry(func() (*Busy, error) { return startBusy(ctx, python, programs, opts) })
}

func startBusy(ctx context.Context, python string, programs services, opts Options) (b *Busy, err error) {
	addresses, err := process.FreeAddresses(7)
	if err != nil {
		return nil, err
	}
	dir, err := newDir("busy-synapse")
	if err != nil {
		return nil, err
	}
	b = &Busy{
		Homeserver:  Homeserver{Name: "synapse", URL: "http://" + addresses[0], ServerName: ServerName, Redis: addresses[3], dir: dir},
		PresenceURL: "http://" + addresses[1], SyncURL: "http://" + addresses[2],
	}
	defer func(started *Busy) {
		if err != nil {
			started.Stop()
		}
	}(b)
	database, err := startPostgres(ctx, programs, dir)
	if err != nil {
		return nil, err
	}
	b.services = append(b.services, database)
	b.startRedis = func(ctx context.Context) (*process.Process, error) { return startRedis(ctx, programs, dir, b.Redis) }
	redis, err := b.startRedis(ctx)
	if err != nil {
		return nil, err
	}
	b.services = append(b.services, redis)

	ports := make([]string, len(addresses))
	for i, address := range addresses {
		_, ports[i], _ = net.SplitHostPort(address)
	}
	opts.busy = &busyPorts{
		Database: filepath.Join(dir, "socket"), Redis: ports[3], Main: ports[4], Presence: ports[5], Sync: ports[6],
		RedisPassword: RedisPassword, PresenceWorker: presenceWorker,
	}
	if err := writeSynapseFiles(dir, opts, ports[0]); err != nil {
		return nil, err
	}
	for i, name := range []string{presenceWorker, syncWorker} {
		text := fmt.Sprintf(workerConfig, name, ports[1+i], ports[5+i])
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("writing the configuration of a worker: %w", err)
		}
	}
	if b.process, err = b.startPython(ctx, python, dir, b.URL, "homeserver"); err != nil {
		return nil, err
	}
	for name, url := range map[string]string{presenceWorker: b.PresenceURL, syncWorker: b.SyncURL} {
		if _, err := b.startPython(ctx, python, dir, url, name); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// workerConfig has a worker's name, the port of its client API and that of its replication.
const workerConfig = `worker_app: synapse.app.generic_worker
worker_name: %s
worker_listeners:
  - {port: %s, bind_addresses: [127.0.0.1], type: http, x_forwarded: true, resources: [{names: [client]}]}
  - {port: %s, bind_addresses: [127.0.0.1], type: http, resources: [{names: [replication]}]}
`

// startPython starts a process of Synapse's and waits for it.
func (b *Busy) startPython(ctx context.Context, python, dir, url, name string) (*process.Process, error) {
	args := []string{"-m", "synapse.app.homeserver", "-c", "homeserver.yaml"}
	if name != "homeserver" {
		args = []string{"-m", "synapse.app.generic_worker", "-c", "homeserver.yaml", "-c", name + ".yaml"}
	}
	cmd := exec.Command(python, args...)
	cmd.Dir = dir
	p, err := process.Start("synapse "+name, cmd, filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	b.services = append(b.services, p)
	return p, p.Ready(ctx, url+"/health")
}

// accepts waits until something listens at an address.
func accepts(ctx context.Context, p *process.Process, network, address string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if connection, err := net.Dial(network, address); err == nil {
			return connection.Close()
		}
		select {
		case <-p.Exited():
			return fmt.Errorf("it exited: %s", process.Tail(p.Log, 20))
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return errors.New("it doesn't listen: " + process.Tail(p.Log, 20))
}
