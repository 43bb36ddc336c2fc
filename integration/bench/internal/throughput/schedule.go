package throughput

import "slices"

// schedule returns the order in which a round goes through the contenders; every
// second round goes backwards. With fresh floors each is preceded by its floor.
func schedule(contenders []Contender, round int, freshFloors bool) []Contender {
	order := slices.Clone(contenders)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	if !freshFloors {
		return order
	}
	var with []Contender
	for _, c := range order {
		floor := slices.IndexFunc(order, func(f Contender) bool { return f.Name == c.Floor })
		switch {
		case floor >= 0:
			if len(with) == 0 || with[len(with)-1].Name != c.Floor {
				with = append(with, order[floor])
			}
			with = append(with, c)
		case !isFloor(order, c.Name):
			with = append(with, c)
		}
		// What is a floor only is measured for those that are compared with it.
	}
	return with
}

func isFloor(contenders []Contender, name string) bool {
	return slices.ContainsFunc(contenders, func(c Contender) bool { return c.Floor == name })
}
