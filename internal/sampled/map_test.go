package sampled

import "testing"

func older(a, b int) bool { return a < b }

func TestMapKeepsItsBound(t *testing.T) {
	m := New[int, int](100, older)
	for i := range 10_000 {
		m.Put(i, i)
		if m.Len() > 100 {
			t.Fatalf("%d entries after %d", m.Len(), i)
		}
		if got, ok := m.Get(i); !ok || got != i {
			t.Fatalf("the newest entry is %d, %v", got, ok)
		}
	}
	m.Put(9_999, 5)
	if got, _ := m.Get(9_999); got != 5 || m.Len() != 100 {
		t.Errorf("overwritten: %d, and %d entries", got, m.Len())
	}
	m.Delete(9_999)
	if _, ok := m.Get(9_999); ok || m.Len() != 99 {
		t.Errorf("deleted, but there; %d entries", m.Len())
	}
}

func TestMapDropsOldOnes(t *testing.T) {
	m := New[int, int](1000, older)
	for i := range 1000 {
		m.Put(i, i)
	}
	for i := range 200 {
		m.Put(1000+i, 1000+i)
	}
	young := 0
	for i := 600; i < 1200; i++ {
		if _, ok := m.Get(i); ok {
			young++
		}
	}
	// Of 200 dropped, with the oldest of 8 each, about one in 170 is among the
	// younger half.
	if young < 580 {
		t.Errorf("%d of the 600 youngest are left", young)
	}
}

func TestMapResizes(t *testing.T) {
	m := New[int, int](0, older)
	m.Put(1, 1)
	m.Put(2, 2)
	if m.Len() != 1 {
		t.Errorf("%d entries, want at least and at most 1", m.Len())
	}
	m.Resize(10)
	for i := range 20 {
		m.Put(i, i)
	}
	if m.Len() != 10 {
		t.Errorf("%d entries, want 10", m.Len())
	}
	m.Resize(3)
	if m.Len() != 3 {
		t.Errorf("%d entries, want 3", m.Len())
	}
}
