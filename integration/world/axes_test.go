package world_test

// axis is one way in which worlds differ.
type axis[T any] struct {
	name   string
	values []value[T]
}

// value is a name and what it changes. The first of an axis is the plainest, to which a failure
// is reduced.
type value[T any] struct {
	name string
	set  func(T)
}

// String is its name, also in the file of a plan.
func (v value[T]) String() string { return v.name }
