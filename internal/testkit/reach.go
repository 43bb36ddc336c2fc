package testkit

import (
	"maps"
	"reflect"
)

// Reachable returns all strings and byte sequences that a value leads to, through
// pointers and unexported fields too.
func Reachable(root any) []string {
	found := make(map[string]bool)
	seen := make(map[uintptr]bool)
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			found[v.String()] = true
		case reflect.Pointer:
			if !v.IsNil() && !seen[v.Pointer()] {
				seen[v.Pointer()] = true
				walk(v.Elem())
			}
		case reflect.Interface:
			walk(v.Elem())
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		case reflect.Map:
			for _, key := range v.MapKeys() {
				walk(key)
				walk(v.MapIndex(key))
			}
		case reflect.Array, reflect.Slice:
			var bytes []byte
			for i := range v.Len() {
				if e := v.Index(i); e.Kind() == reflect.Uint8 {
					bytes = append(bytes, byte(e.Uint())) //nolint:gosec // G115: its kind is uint8
				} else {
					walk(e)
				}
			}
			found[string(bytes)] = true
		}
	}
	walk(reflect.ValueOf(root))
	var all []string
	for s := range maps.Keys(found) {
		all = append(all, s)
	}
	return all
}
