package matrix

import (
	"errors"
	"strings"
	"testing"
)

var presenceValues = []string{"online", "unavailable", "offline", "busy", "org.matrix.msc3026.busy"}

func TestBodiesThatSomeHomeserverTakesPass(t *testing.T) {
	tests := []struct{ name, body string }{
		{"online", `{"presence":"online"}`},
		{"unavailable", `{"presence":"unavailable"}`},
		{"offline", `{"presence":"offline"}`},
		{"busy", `{"presence":"busy"}`},
		{"busy of MSC3026", `{"presence":"org.matrix.msc3026.busy"}`},
		{"space around it", " \r\n{ \"presence\" : \"online\" }\n"},
		{"status message", `{"presence":"online","status_msg":"at work"}`},
		{"no status message", `{"presence":"online","status_msg":null}`},
		{"status message that is a number, which tuwunel and Synapse judge", `{"presence":"online","status_msg":1}`},
		{"further keys, which only Synapse refuses", `{"presence":"online","currently_active":true,"x":{"presence":"x"}}`},
		{"escaped key", `{"\u0070resence":"online"}`},
		{"escaped value", `{"presence":"\u006fnline"}`},
		{"value by another case, as Dendrite takes it", `{"presence":"ONLINE"}`},
		{"key by another case, as Dendrite takes it", `{"Presence":"online"}`},
		{"both by another case", `{"PRESENCE":"OnLine"}`},
		{"key twice, the last one counts", `{"presence":"x","presence":"online"}`},
		{"status message of a kilobyte", `{"presence":"online","status_msg":"` + strings.Repeat("x", 1024) + `"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := CheckPresenceBody([]byte(tt.body), presenceValues, UnknownDialect); err != nil {
				t.Errorf("CheckPresenceBody(%s) = %v", tt.body, err)
			}
		})
	}
}

func TestBodiesThatNoHomeserverTakesAreRefused(t *testing.T) {
	tests := []struct{ name, body, errcode string }{
		{"empty", ``, "M_NOT_JSON"},
		{"blank", ` `, "M_NOT_JSON"},
		{"a word", `online`, "M_NOT_JSON"},
		{"cut", `{"presence":"online"`, "M_NOT_JSON"},
		{"two objects", `{"presence":"online"}{}`, "M_NOT_JSON"},
		{"trailing comma", `{"presence":"online",}`, "M_NOT_JSON"},
		{"form", `presence=online`, "M_NOT_JSON"},
		{"single quotes", `{'presence':'online'}`, "M_NOT_JSON"},
		{"byte order mark", "\ufeff" + `{"presence":"online"}`, "M_NOT_JSON"},
		{"no Unicode", "{\"presence\":\"online\",\"status_msg\":\"\xff\"}", "M_NOT_JSON"},
		{"raw line break in a string", "{\"presence\":\"online\",\"status_msg\":\"\n\"}", "M_NOT_JSON"},
		{"string", `"online"`, "M_BAD_JSON"},
		{"array", `["online"]`, "M_BAD_JSON"},
		{"number", `1`, "M_BAD_JSON"},
		{"null", `null`, "M_BAD_JSON"},
		{"no presence", `{}`, "M_BAD_JSON"},
		{"status message only", `{"status_msg":"x"}`, "M_BAD_JSON"},
		{"presence further down", `{"content":{"presence":"online"}}`, "M_BAD_JSON"},
		{"presence is null", `{"presence":null}`, "M_BAD_JSON"},
		{"presence is a number", `{"presence":1}`, "M_BAD_JSON"},
		{"presence is an object", `{"presence":{"presence":"online"}}`, "M_BAD_JSON"},
		{"presence is an array", `{"presence":["online"]}`, "M_BAD_JSON"},
		{"presence is true", `{"presence":true}`, "M_BAD_JSON"},
		{"presence is empty", `{"presence":""}`, "M_BAD_JSON"},
		{"unknown presence", `{"presence":"away"}`, "M_BAD_JSON"},
		{"space in the value", `{"presence":" online"}`, "M_BAD_JSON"},
		{"beginning of a value", `{"presence":"on"}`, "M_BAD_JSON"},
		{"key twice, the last one counts", `{"presence":"online","presence":"x"}`, "M_BAD_JSON"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckPresenceBody([]byte(tt.body), presenceValues, UnknownDialect)
			var refusal *BodyError
			if !errors.As(err, &refusal) || refusal.Errcode != tt.errcode || refusal.Message == "" {
				t.Errorf("CheckPresenceBody(%s) = %v, want %s", tt.body, err, tt.errcode)
			}
		})
	}
}

func TestAllowedValuesAreTheConfiguredOnes(t *testing.T) {
	for _, tt := range []struct {
		values []string
		body   string
		ok     bool
	}{
		{[]string{"online", "offline"}, `{"presence":"unavailable"}`, false},
		{[]string{"online", "offline"}, `{"presence":"offline"}`, true},
		{[]string{"dnd"}, `{"presence":"dnd"}`, true},
		// Dendrite takes the last.
		{[]string{"online"}, `{"presence":"online","Presence":"offline"}`, false},
		{[]string{"online"}, `{"Presence":"offline","presence":"online"}`, false},
		{[]string{"online"}, `{"presence":"offline","presence":null}`, false},
		{[]string{"online"}, `{"presence":"offline","presence":"online"}`, true},
		{[]string{"online"}, `{"presence":"online","Presence":null}`, true},
	} {
		err := CheckPresenceBody([]byte(tt.body), tt.values, UnknownDialect)
		if (err == nil) != tt.ok {
			t.Errorf("CheckPresenceBody(%s, %q) = %v", tt.body, tt.values, err)
		}
		for _, value := range tt.values {
			if err != nil && !strings.Contains(err.Error(), value) {
				t.Errorf("%v does not name the value %q", err, value)
			}
		}
	}
}

func BenchmarkCheckPresenceBody(b *testing.B) {
	body := []byte(`{"presence":"online","status_msg":"at work"}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := CheckPresenceBody(body, presenceValues, UnknownDialect); err != nil {
			b.Fatal(err)
		}
	}
}
