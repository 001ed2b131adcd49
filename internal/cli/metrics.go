// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ramjet-vm/ramjet/qmp"
	"github.com/ramjet-vm/ramjet/snapshot"
)

// metrics are what serve --metrics shows, in Prometheus' text format.
type metrics struct {
	registry *prometheus.Registry
	commands *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// otherCommand stands for all commands that are not in the server's table, so that clients cannot make up series.
const otherCommand = "other"

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ramjet_commands_total", Help: "Commands carried out, by name and by result, which is ok or error.",
		}, []string{"command", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "ramjet_command_seconds", Help: "How long commands took.", Buckets: prometheus.ExponentialBuckets(1e-5, 10, 7),
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "ramjet_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": snapshot.VersionString()},
	})
	build.Set(1)
	m.registry.MustRegister(m.commands, m.seconds, build)
	return m
}

// observe counts, times and logs the commands of a server that does not serve yet.
func (m *metrics) observe(s *qmp.Server, event func(string, ...any)) {
	if query, ok := s.Commands["query-migrate"]; ok { // as it is: what a scrape asks is not a client's command
		m.registry.MustRegister(&migrationCollector{query.Run})
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
		m.commands.WithLabelValues(label, outcome).Inc()
		m.seconds.Observe(took)
		event(fmt.Sprintf("command %.64q: %s", r.Name, outcome), "name", fmt.Sprintf("%.64s", r.Name), "seconds", took, "error", err)
		return result, err
	}
}

// serve answers at an address that somebody listens at already, until ctx ends.
func (m *metrics) serve(ctx context.Context, l net.Listener) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10}
	context.AfterFunc(ctx, func() { s.Close() })
	_ = s.Serve(l) // it ends when ctx does
}

// migrationCollector asks for the last migration when it is asked.
type migrationCollector struct{ query qmp.Handler }

var (
	migrationState = prometheus.NewDesc("ramjet_migration_state", "1 for the state that the last migration is in.", []string{"state"}, nil)
	migrationBytes = prometheus.NewDesc("ramjet_migration_bytes", "The last migration's bytes: total and remaining of memory, transferred to or from the file.",
		[]string{"kind"}, nil)
	migrationSeconds  = prometheus.NewDesc("ramjet_migration_seconds", "How long the last migration has taken so far.", nil, nil)
	migrationDowntime = prometheus.NewDesc("ramjet_migration_downtime_seconds", "How long the guest stood still in the last migration.", nil, nil)
)

func (c *migrationCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{migrationState, migrationBytes, migrationSeconds, migrationDowntime} {
		out <- d
	}
}

func (c *migrationCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := c.query(ctx, &qmp.Request{Name: "query-migrate"})
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
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(migrationState, 1, info.Status)
	if info.RAM != nil {
		gauge(migrationBytes, float64(info.RAM.Total), "total")
		gauge(migrationBytes, float64(info.RAM.Remaining), "remaining")
		gauge(migrationBytes, float64(info.RAM.Transferred), "transferred")
	}
	if info.TotalTime != nil {
		gauge(migrationSeconds, float64(*info.TotalTime)/1000)
	}
	if info.Downtime != nil {
		gauge(migrationDowntime, float64(*info.Downtime)/1000)
	}
}

// listenMetrics listens at HOST:PORT, or at a Unix socket if address is a path.
func listenMetrics(address string) (net.Listener, error) {
	network := "tcp"
	if len(address) > 0 && (address[0] == '/' || address[0] == '.') {
		network = "unix"
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("--metrics %s: give HOST:PORT, 127.0.0.1:9105 say, or the path of a socket to make: %w", address, err)
	}
	return l, nil
}
