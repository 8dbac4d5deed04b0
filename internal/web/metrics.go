package web

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"afloat/internal/server"
)

// metricsLimit bounds one scrape's question to the server.
const metricsLimit = 5 * time.Second

func registry(s *server.Server) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{server: s,
		epoch:     desc("epoch", "Epoch of this leader."),
		hosts:     desc("hosts", "Enrolled hosts, revoked ones left out."),
		connected: desc("hosts_connected", "Hosts connected now."),
		held:      desc("held", "1 while the server holds all decisions, 0 otherwise."),
	})
	return r
}

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("afloat_"+name, help, nil, nil)
}

// collector asks the server at each scrape, so that it keeps no second truth.
type collector struct {
	server                        *server.Server
	epoch, hosts, connected, held *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.epoch, c.hosts, c.connected, c.held} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), metricsLimit)
	defer cancel()
	status, err := c.server.Status(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(c.epoch, err)
		return
	}
	held := 0.0
	if status.Held != "" {
		held = 1
	}
	for d, v := range map[*prometheus.Desc]float64{
		c.epoch: float64(status.Epoch), c.hosts: float64(status.Hosts), c.connected: float64(status.Connected), c.held: held,
	} {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
}
