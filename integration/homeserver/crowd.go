package homeserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// crowdScript writes users and their tokens into a Synapse's database.
const crowdScript = `import sqlite3, sys
database, count, server = sys.argv[1], int(sys.argv[2]), sys.argv[3]
with sqlite3.connect(database, timeout=30) as db:
    db.executemany("INSERT INTO users (name, creation_ts) VALUES (?, 0)",
        ((f"@crowd{i}:{server}",) for i in range(count)))
    db.executemany("INSERT INTO access_tokens (id, user_id, token, device_id, last_validated) VALUES (?, ?, ?, ?, 0)",
        ((10**9 + i, f"@crowd{i}:{server}", f"crowd-token-{i}", f"D{i}") for i in range(count)))
    db.executemany("INSERT INTO devices (user_id, device_id, display_name) VALUES (?, ?, '')",
        ((f"@crowd{i}:{server}", f"D{i}") for i in range(count)))
`

// AddCrowd makes so many users of a Synapse, each with a device and its token, straight in the database: to
// register ten thousand takes many minutes.
func (h *Homeserver) AddCrowd(ctx context.Context, n int) ([]User, error) {
	python, err := InstallSynapse(ctx, nil)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, python, "-c", crowdScript, filepath.Join(h.dir, "homeserver.db"), strconv.Itoa(n), h.ServerName)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("writing a crowd into the database: %w", err)
	}
	users := make([]User, n)
	for i := range users {
		users[i] = User{ID: h.UserID(fmt.Sprintf("crowd%d", i)), AccessToken: fmt.Sprintf("crowd-token-%d", i), DeviceID: fmt.Sprintf("D%d", i)}
	}
	return users, nil
}
