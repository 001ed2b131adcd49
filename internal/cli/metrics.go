// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	vmetrics "github.com/VictoriaMetrics/metrics"

	"github.com/ramjet-vm/ramjet/image"
	"github.com/ramjet-vm/ramjet/monitor"
	"github.com/ramjet-vm/ramjet/qmp"
)

// metrics are what serve --metrics shows, in Prometheus' text format.
type metrics struct {
	set     *vmetrics.Set
	seconds *vmetrics.PrometheusHistogram
}

// otherCommand stands for all commands that are not in the server's table, so that clients cannot make up series.
const otherCommand = "other"

func newMetrics() *metrics {
	vmetrics.ExposeMetadata(true)
	set := vmetrics.NewSet()
	set.NewGauge(fmt.Sprintf("ramjet_build_info{version=%q}", image.VersionString()), nil).Set(1)
	return &metrics{set, set.NewPrometheusHistogramExt("ramjet_command_seconds", vmetrics.ExponentialBuckets(1e-5, 10, 7))}
}

// observe counts, times and logs the commands of a server that does not serve yet.
func (m *metrics) observe(s *qmp.Server, event func(string, ...any)) {
	if query, ok := s.Commands["query-migrate"]; ok { // as it is: what a scrape asks is not a client's command
		m.set.RegisterMetricsWriter(func(w io.Writer) { writeMigration(w, query.Run) })
	}
	for name, c := range s.Commands {
		s.Commands[name] = qmp.Command{Run: m.observed(name, c.Run, event), OOB: c.OOB}
	}
	if s.Fallback != nil {
		s.Fallback = m.observed(otherCommand, s.Fallback, event)
	}
}

func (m *metrics) observed(label string, run qmp.Handler, event func(string, ...any)) qmp.Handler {
	return func(ctx context.Context, r *qmp.Request) (any, error) {
		began := time.Now()
		result, err := run(ctx, r)
		took := time.Since(began).Seconds()
		outcome := "ok"
		if err != nil {
			outcome = "error"
		}
		m.set.GetOrCreateCounter(fmt.Sprintf("ramjet_commands_total{command=%q,result=%q}", label, outcome)).Inc()
		m.seconds.Update(took)
		event(fmt.Sprintf("command %.64q: %s", r.Name, outcome), "name", fmt.Sprintf("%.64s", r.Name), "seconds", took, "error", err)
		return result, err
	}
}

// serve answers at an address that somebody listens at already, until ctx ends.
func (m *metrics) serve(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		m.set.WritePrometheus(w)
	})
	mux.Handle("GET /metrics", http.TimeoutHandler(page, 10*time.Second, "the server does not answer\n"))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10}
	context.AfterFunc(ctx, func() { s.Close() })
	_ = s.Serve(l) // it ends when ctx does
}

// writeMigration asks for the last migration when it is asked.
func writeMigration(w io.Writer, query qmp.Handler) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := query(ctx, &qmp.Request{Name: "query-migrate"})
	if err != nil {
		return
	}
	var info struct {
		Status    string `json:"status"`
		TotalTime *int64 `json:"total-time"`
		Downtime  *int64 `json:"downtime"`
		RAM       *struct{ Transferred, Remaining, Total int64 }
	}
	b, err := json.Marshal(answer)
	if err != nil || json.Unmarshal(b, &info) != nil || info.Status == "" {
		return
	}
	family := "" // its kind is told once
	gauge := func(name, labels string, v float64) {
		if name != family {
			vmetrics.WriteMetadataIfNeeded(w, name, "gauge")
			family = name
		}
		fmt.Fprintf(w, "%s%s %g\n", name, labels, v)
	}
	gauge("ramjet_migration_state", fmt.Sprintf("{state=%q}", info.Status), 1)
	if info.RAM != nil {
		gauge("ramjet_migration_bytes", `{kind="total"}`, float64(info.RAM.Total))
		gauge("ramjet_migration_bytes", `{kind="remaining"}`, float64(info.RAM.Remaining))
		gauge("ramjet_migration_bytes", `{kind="transferred"}`, float64(info.RAM.Transferred))
	}
	if info.TotalTime != nil {
		gauge("ramjet_migration_seconds", "", float64(*info.TotalTime)/1000)
	}
	if info.Downtime != nil {
		gauge("ramjet_migration_downtime_seconds", "", float64(*info.Downtime)/1000)
	}
}

// listenMetrics listens at HOST:PORT, or, if address is a path, at a Unix socket of mode 0600, in place of one that was left behind.
func listenMetrics(address string) (net.Listener, error) {
	if len(address) > 0 && (address[0] == '/' || address[0] == '.') {
		l, err := monitor.Listen(address, -1)
		if err != nil {
			return nil, fmt.Errorf("--metrics %s: %w", address, err)
		}
		l.SetUnlinkOnClose(false) // access to the file system is given up by then
		return l, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: give HOST:PORT, 127.0.0.1:9105 say, or the path of a socket to make: %w", address, err)
	}
	return l, nil
}
