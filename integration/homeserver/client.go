package homeserver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// User is a registered user and one of its devices.
type User struct {
	ID          string `json:"user_id"`
	AccessToken string `json:"access_token"`
	DeviceID    string `json:"device_id"`
	Password    string `json:"-"`
}

// Client makes and logs in users of a homeserver, ours or any other.
type Client struct {
	// URL is the base of the client API.
	URL string
	// SharedSecret is the homeserver's registration_shared_secret.
	SharedSecret string
}

// Register makes a user with the shared secret and logs it in.
func (c Client) Register(ctx context.Context, localpart, password string) (User, error) {
	return c.register(ctx, localpart, password, false)
}

// RegisterAdmin is Register for an admin of the homeserver.
func (c Client) RegisterAdmin(ctx context.Context, localpart, password string) (User, error) {
	return c.register(ctx, localpart, password, true)
}

func (c Client) register(ctx context.Context, localpart, password string, admin bool) (User, error) {
	const path = "/_synapse/admin/v1/register"
	var nonce struct {
		Nonce string `json:"nonce"`
	}
	if err := c.Do(ctx, http.MethodGet, path, "", nil, &nonce); err != nil {
		return User{}, fmt.Errorf("registering %s: asking for a nonce: %w", localpart, err)
	}
	mac := hmac.New(sha1.New, []byte(c.SharedSecret))
	word := "notadmin"
	if admin {
		word = "admin"
	}
	mac.Write([]byte(strings.Join([]string{nonce.Nonce, localpart, password, word}, "\x00")))

	user := User{Password: password}
	err := c.Do(ctx, http.MethodPost, path, "", map[string]any{
		"nonce":    nonce.Nonce,
		"username": localpart,
		"password": password,
		"admin":    admin,
		"mac":      hex.EncodeToString(mac.Sum(nil)),
	}, &user)
	if err != nil {
		return User{}, fmt.Errorf("registering %s: %w", localpart, err)
	}
	return user, nil
}

// RegisterOpen makes a user where registration is open to everybody.
func (c Client) RegisterOpen(ctx context.Context, localpart, password string) (User, error) {
	user := User{Password: password}
	err := c.Do(ctx, http.MethodPost, "/_matrix/client/v3/register", "", map[string]any{
		"username": localpart,
		"password": password,
		"auth":     map[string]any{"type": "m.login.dummy"},
	}, &user)
	if err != nil {
		return User{}, fmt.Errorf("registering %s: %w", localpart, err)
	}
	return user, nil
}

// RegisterGhost makes a user in an appservice's namespace. It has no token of
// its own: the appservice speaks for it.
func (c Client) RegisterGhost(ctx context.Context, asToken, localpart string) error {
	err := c.Do(ctx, http.MethodPost, "/_matrix/client/v3/register", asToken, map[string]any{
		"type":          "m.login.application_service",
		"username":      localpart,
		"inhibit_login": true,
	}, nil)
	if err != nil {
		return fmt.Errorf("registering %s: %w", localpart, err)
	}
	return nil
}

// Login logs a user in, on a new device.
func (c Client) Login(ctx context.Context, userID, password string) (User, error) {
	user := User{Password: password}
	err := c.Do(ctx, http.MethodPost, "/_matrix/client/v3/login", "", map[string]any{
		"type":       "m.login.password",
		"identifier": map[string]any{"type": "m.id.user", "user": userID},
		"password":   password,
	}, &user)
	if err != nil {
		return User{}, fmt.Errorf("logging in %s: %w", userID, err)
	}
	return user, nil
}

// Whoami returns the user that a token belongs to.
func (c Client) Whoami(ctx context.Context, token string) (User, error) {
	user := User{AccessToken: token}
	if err := c.Do(ctx, http.MethodGet, "/_matrix/client/v3/account/whoami", token, nil, &user); err != nil {
		return User{}, fmt.Errorf("asking whose token it is: %w", err)
	}
	return user, nil
}

// Room makes a public room of a user's, and has others join it. On Synapse, only those who share a room
// see each other's presence.
func (c Client) Room(ctx context.Context, host User, others ...User) (id string, err error) {
	var room struct {
		ID string `json:"room_id"`
	}
	err = c.Do(ctx, http.MethodPost, "/_matrix/client/v3/createRoom", host.AccessToken, map[string]any{"preset": "public_chat"}, &room)
	if err != nil {
		return "", fmt.Errorf("making a room: %w", err)
	}
	for _, user := range others {
		path := "/_matrix/client/v3/join/" + url.PathEscape(room.ID)
		if err := c.Do(ctx, http.MethodPost, path, user.AccessToken, map[string]any{}, nil); err != nil {
			return "", fmt.Errorf("joining a room: %w", err)
		}
	}
	return room.ID, nil
}

// Do sends a request with an optional token and JSON body and decodes the
// answer into result, unless that is nil. Any other status than 200 is an error.
func (c Client) Do(ctx context.Context, method, path, token string, body, result any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, content)
	if err != nil {
		return err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(text, result)
}
