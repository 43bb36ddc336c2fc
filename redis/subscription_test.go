package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-matrix/caddy-matrix-presence/internal/gateway"
)

// events notes what becomes of a subscription.
type events struct {
	mu  sync.Mutex // guards all
	all []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf(format, args...))
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.all, "\n")
}

// await waits until a line is among the events so many times.
func (e *events) await(t *testing.T, line string, times int) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if strings.Count(e.String(), line) >= times {
			return
		}
	}
	t.Fatalf("no %q, %d times, in\n%s", line, times, e)
}

func (e *events) Connected() { e.add("connected") }
func (e *events) Lost(why gateway.FeedLoss, err error) {
	word := map[gateway.FeedLoss]string{gateway.FeedConnection: "connection", gateway.FeedRefused: "refused"}[why]
	e.add("lost: %s: %v", word, err)
}
func (e *events) Missed(gateway.FeedLoss)       {}
func (e *events) Heard(gateway.FeedLine)        {}
func (e *events) MembershipChanged(user string) { e.add("member %s", user) }
func (e *events) MembershipsChanged()           {}
func (e *events) TokenEnded(string)             {}
func (e *events) SessionsEnded(string)          {}
func (e *events) PresenceChanged(of gateway.PresenceNews) bool {
	e.add("%s is %s", of.UserID, of.Presence)
	return true
}

// start runs a feed until the test ends.
func start(t *testing.T, f *Feed) *events {
	t.Helper()
	if err := f.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	e := new(events)
	running.Go(func() { f.Run(ctx, e) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return e
}

const row = `RDATA presence master 3 ["@ann:fed.test","online",1,2,0,null,true]`

func TestFeedReadsItsChannelAndConnectsAgain(t *testing.T) {
	server := miniredis.RunT(t)
	e := start(t, &Feed{ServerName: "fed.test", Server: Server{Address: server.Addr()}})
	e.await(t, "connected", 1)
	server.Publish("fed.test", row)
	server.Publish("other.test", strings.ReplaceAll(row, "ann", "eve"))
	e.await(t, "@ann:fed.test is online", 1)

	server.Close()
	e.await(t, "lost: connection", 1)
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		err := server.Restart()
		if err == nil {
			break
		}
		if time.Now().After(end) { // meanwhile the port may have been a client's
			t.Fatal(err)
		}
	}
	e.await(t, "connected", 2)
	server.Publish("fed.test", row)
	e.await(t, "@ann:fed.test is online", 2)
	if strings.Contains(e.String(), "eve") {
		t.Errorf("another channel was read:\n%s", e)
	}
}

func TestFeedStartsWithoutAServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	e := start(t, &Feed{ServerName: "fed.test", Server: Server{Address: address}})
	e.await(t, "lost: connection", 2)
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr(address); err != nil {
		t.Skip(err) // somebody else has the port by now
	}
	defer server.Close()
	e.await(t, "connected", 1)
}

func TestFeedIsRefused(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireUserAuth("reader", "right")
	e := start(t, &Feed{ServerName: "fed.test", Server: Server{Address: server.Addr(), Access: Access{Username: "reader", Password: "wrong-secret"}}})
	e.await(t, "lost: refused", 1)
	if strings.Contains(e.String(), "wrong-secret") {
		t.Errorf("the password is told:\n%s", e)
	}
}

// relay passes what comes to a listener on to a server, and has answers pass what comes back.
func relay(t *testing.T, listener net.Listener, server string, answers func(client io.Writer, upstream io.Reader)) {
	t.Helper()
	var open sync.WaitGroup
	t.Cleanup(func() { listener.Close(); open.Wait() })
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				t.Error(err)
				return
			}
			open.Go(func() { io.Copy(upstream, client); upstream.Close() })
			open.Go(func() { answers(client, upstream); client.Close() })
		}
	})
}

// The server, or the network, hangs: it reads, and answers nothing.
func TestConnectionThatIsHalfOpenIsNoticed(t *testing.T) {
	server := miniredis.RunT(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hangs := make(chan struct{})
	relay(t, listener, server.Addr(), func(client io.Writer, upstream io.Reader) {
		buffer := make([]byte, 4096)
		for {
			n, err := upstream.Read(buffer)
			if err != nil {
				return
			}
			select {
			case <-hangs:
			default:
				client.Write(buffer[:n])
			}
		}
	})
	e := start(t, &Feed{ServerName: "fed.test", Server: Server{Address: listener.Addr().String()}})
	e.await(t, "connected", 1)
	close(hangs)
	e.await(t, "lost: connection", 1)
}

func TestFeedOverASocketWithAPasswordFromTheEnvironment(t *testing.T) {
	server := miniredis.NewMiniRedis()
	server.RequireAuth("from-the-environment")
	path := t.TempDir() + "/redis.sock"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	relay(t, listener, server.Addr(), func(client io.Writer, upstream io.Reader) { io.Copy(client, upstream) })
	t.Setenv("FEED_PASSWORD", "from-the-environment")
	e := start(t, &Feed{ServerName: "fed.test", Server: Server{Address: "unix/" + path, Access: Access{Password: "{env.FEED_PASSWORD}"}}})
	e.await(t, "connected", 1)
	server.Publish("fed.test", row)
	e.await(t, "@ann:fed.test is online", 1)
}

// Whoever isn't vouched for isn't believed, and isn't told the password, which is in a file.
func TestFeedOverTLS(t *testing.T) {
	certificate, ca := selfSigned(t)
	server := miniredis.NewMiniRedis()
	server.RequireAuth("from-a-file")
	if err := server.StartTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	password := t.TempDir() + "/password"
	if err := os.WriteFile(password, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	over := func(trust *TLS) *events {
		return start(t, &Feed{ServerName: "fed.test", Server: Server{Address: server.Addr(), Access: Access{Password: "{file." + password + "}", TLS: trust}}})
	}
	e := over(&TLS{CA: ca})
	e.await(t, "connected", 1)
	server.Publish("fed.test", row)
	e.await(t, "@ann:fed.test is online", 1)
	over(new(TLS)).await(t, "certificate", 1)
	over(&TLS{CA: ca, ServerName: "another.test"}).await(t, "certificate", 1)
	over(nil).await(t, "lost: connection", 1)
}

// selfSigned returns a certificate for 127.0.0.1, and a file that has it.
func selfSigned(t *testing.T) (of tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = t.TempDir() + "/ca.pem"
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestRetriesSpreadOut(t *testing.T) {
	for range 1000 {
		if d := jittered(time.Second); d < time.Second/2 || d > time.Second {
			t.Fatalf("%v is no part of a second between half and all", d)
		}
	}
}
