// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ramjet-vm/ramjet/qmp"
)

// TestMetrics has a serve in its sandbox carry out commands, and reads what it says of them.
func TestMetrics(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qmp")
	c := exec.Command(os.Args[0], "serve", "--qmp", socket, "--memory", "ram0=2M", "--metrics", "127.0.0.1:0", "--log-format", "json", "-vv")
	c.Env = append(os.Environ(), asProgram+"=1")
	stderr, err := c.StderrPipe()
	check(t, err)
	check(t, c.Start())
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })

	lines := bufio.NewReader(stderr)
	var address struct{ Msg, Address, Command string }
	readLine(t, lines, &address)
	if address.Command != "serve" || !strings.HasPrefix(address.Msg, "metrics at 127.0.0.1:") {
		t.Fatalf("the first line is %+v", address)
	}
	client, err := qmp.Dial(t.Context(), socket) // it listens, or there would be no metrics yet
	check(t, err)
	defer client.Close()
	check(t, client.Execute(t.Context(), "query-status", nil, nil))
	if err := client.Execute(t.Context(), "migrate", map[string]any{"uri": "file:/dev/fdset/7"}, nil); err == nil {
		t.Fatal("a migration to a set that there is not was accepted")
	}
	migrate(t, client)
	var said struct {
		Level, Msg, Name, Engine, Why string
		Seconds                       float64
	}
	for said.Name != "query-status" {
		readLine(t, lines, &said)
	}
	if said.Level != "DEBUG" {
		t.Errorf("a command is logged as %+v", said)
	}
	for !strings.Contains(said.Msg, "completed after") { // one to a set that there is not comes before
		readLine(t, lines, &said)
	}
	if said.Level != "INFO" || said.Engine != "ramjet" || said.Why == "" || said.Seconds == 0 {
		t.Errorf("the migration is logged as %+v", said)
	}
	scrape(t, "http://"+address.Address+"/metrics")
	page := scrape(t, "http://"+address.Address+"/metrics")
	if strings.Contains(page, `command="query-migrate"`) {
		t.Errorf("a scrape counts as a client's command:\n%s", page)
	}
	if n := strings.Count(page, "# TYPE ramjet_migration_bytes gauge"); n != 1 {
		t.Errorf("the kind of a family is told %d times:\n%s", n, page)
	}
	for _, want := range []string{
		`ramjet_commands_total{command="query-status",result="ok"} 1`,
		`ramjet_commands_total{command="migrate",result="error"} 1`,
		`ramjet_build_info{version="`,
		"ramjet_command_seconds_count ",
		`ramjet_migration_state{state="completed"} 1`,
		`ramjet_migration_bytes{kind="total"} 2.097152e+06`,
		`ramjet_migration_bytes{kind="remaining"} 0`,
		"ramjet_migration_seconds ",
		"# TYPE ramjet_command_seconds histogram",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics have no %s:\n%s", want, page)
		}
	}
}

// migrate saves the server's memory into a file.
func migrate(t *testing.T, client *qmp.Client) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_WRONLY|os.O_CREATE, 0o600)
	check(t, err)
	defer f.Close()
	_, err = client.AddFD(t.Context(), 1, "image", f)
	check(t, err)
	on := map[string]any{"capabilities": []map[string]any{{"capability": "mapped-ram", "state": true}, {"capability": "events", "state": true}}}
	check(t, client.Execute(t.Context(), "migrate-set-capabilities", on, nil))
	events, done := client.Subscribe("MIGRATION")
	defer done()
	check(t, client.Execute(t.Context(), "migrate", map[string]any{"uri": "file:/dev/fdset/1"}, nil))
	for e := range events {
		if strings.Contains(string(e.Data), `"failed"`) {
			t.Fatalf("%s", e.Data)
		}
		if strings.Contains(string(e.Data), `"completed"`) {
			return
		}
	}
}

// TestServeJSON has serve end because a client says quit.
func TestServeJSON(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qmp")
	c := exec.Command(os.Args[0], "serve", "--qmp", socket, "--memory", "ram0=2M", "--json")
	c.Env = append(os.Environ(), asProgram+"=1")
	var out, stderr strings.Builder
	c.Stdout, c.Stderr = &out, &stderr
	check(t, c.Start())
	t.Cleanup(func() { c.Process.Kill() })
	client, err := qmp.Dial(t.Context(), socket)
	for err != nil && t.Context().Err() == nil {
		client, err = qmp.Dial(t.Context(), socket)
	}
	check(t, err)
	check(t, client.Execute(t.Context(), "quit", nil, nil))
	check(t, c.Wait())
	var result struct{ Seconds float64 }
	check(t, json.Unmarshal([]byte(out.String()), &result))
	if result.Seconds <= 0 || stderr.Len() > 0 {
		t.Errorf("it prints %q and says %q", &out, &stderr)
	}
}

func readLine(t *testing.T, r *bufio.Reader, v any) {
	t.Helper()
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		t.Fatalf("line %q: %v", line, err)
	}
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	check(t, err)
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	check(t, err)
	return string(b)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
