package cluster

import "context"

// Waiting is a write that was acknowledged and waits at this node. Its Done must be called. The nil one is of a
// node that couldn't tell the others.
type Waiting struct {
	node   *Node
	number uint64
	userID string
	turn   Turn
}

// Wait has the other nodes know of a write that is about to be acknowledged and to wait here. It takes the place
// of those of the same device that wait at other nodes, and what comes later is behind it. It is tried for as long as a
// write is held up; if the log can't be reached in that time, the write waits for nobody and nobody for it.
func (n *Node) Wait(ctx context.Context, userID, device string, merges bool) (w *Waiting) {
	n.insist(ctx, func() error {
		w = n.newWaiting(userID, Turn{Node: n.id, Device: device, Merges: merges})
		e := n.entry(Waits, w.number, userID)
		e.Device, e.Merges = device, merges
		err := n.append(e)
		if err != nil {
			w.Done() // it may have been told, or be told yet: the next try has another number
			w = nil
		}
		return err
	})
	return w
}

func (n *Node) newWaiting(userID string, turn Turn) *Waiting {
	n.own.mu.Lock()
	defer n.own.mu.Unlock()
	n.own.last++
	turn.Waited = n.own.last
	return &Waiting{node: n, number: n.own.last, userID: userID, turn: turn}
}

// Done tells that it waits no more: it was sent, or never will be. It waits for nothing.
func (w *Waiting) Done() {
	if w != nil {
		w.node.tell(w.node.entry(Done, w.number, w.userID))
	}
}

// Begin is [Node.Begin] for a write that has waited, if it is its turn. Otherwise the write is nil. With last there
// is no other time: it is sent unless another has taken its place or it is late, and older ones that wait elsewhere
// are late then. While the log fails, but not for long, it is [Behind]: another may have taken its place.
func (w *Waiting) Begin(ctx context.Context, last bool) (write *Write, order Order) {
	n := w.node
	write = n.newWrite(w.userID)
	turn := w.turn
	turn.Last = last
	if n.contact.lasting() == nil {
		roll := n.own.roll.Load()
		grant, err := write.take(Charge{UserID: w.userID, Turn: &turn})
		switch {
		case err == nil && grant.Turn != InTurn:
			n.discard(write)
			return nil, grant.Turn
		case err == nil:
			n.own.announced(write, roll, n.now())
			return write, InTurn
		}
	}
	if !last && n.ctx.Err() == nil && n.contact.failed(n.now()) < n.patience() {
		n.own.remove(write)
		n.tell(write.end()) // it may have been announced
		return nil, Behind
	}
	if order = write.announce(ctx, &turn).Turn; order != InTurn {
		return nil, order
	}
	return write, InTurn
}
