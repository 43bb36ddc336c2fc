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
// of those of the same device that wait at other nodes, and what comes later is behind it. While the log
// can't be reached, the write waits for nobody and nobody for it.
func (n *Node) Wait(ctx context.Context, userID, device string, merges bool) *Waiting {
	n.own.mu.Lock()
	n.own.last++
	w := &Waiting{node: n, number: n.own.last, userID: userID}
	n.own.mu.Unlock()
	w.turn = Turn{Node: n.id, Device: device, Waited: w.number, Merges: merges}
	if n.contact.lasting() != nil || ctx.Err() != nil {
		return nil
	}
	e := n.entry(Waits, w.number, userID)
	e.Device, e.Merges = device, merges
	if n.append(e) != nil {
		w.Done() // it may have been told
		return nil
	}
	return w
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
	if n.contact.lasting() == nil {
		turn := w.turn
		turn.Last = last
		roll := n.own.roll.Load()
		var grant Grant
		err := n.call(func(ctx context.Context) (err error) {
			grant, err = n.log.Take(ctx, Charge{UserID: w.userID, Turn: &turn}, write.entry())
			return err
		})
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
	write.announce(ctx)
	return write, InTurn
}
