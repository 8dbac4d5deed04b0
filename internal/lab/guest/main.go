// Command lab-guest runs inside the lab's guests: `lab-guest workload` is the
// service behind the load balancer, `lab-guest control` the lab's hands and
// eyes; busybox init keeps both alive. `lab-guest probe` succeeds where the
// service answers, and with it the disk and the network work.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"afloat/internal/lab/guestwire"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab-guest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one of workload, control and probe")
	}
	host := hostName()
	switch args[0] {
	case "workload":
		w, err := newWorkload("/data/work", host)
		if err != nil {
			return err
		}
		go w.churn(time.Tick(500 * time.Millisecond))
		return serve(guestwire.WorkloadPort, w.handler())
	case "control":
		return serve(guestwire.ControlPort, controlHandler(host))
	case "probe":
		return probe(fmt.Sprintf("http://127.0.0.1:%d/", guestwire.WorkloadPort))
	}
	return fmt.Errorf("unknown service %q", args[0])
}

// probe asks for one request's worth of work.
func probe(url string) error {
	client := http.Client{Timeout: time.Minute}
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("probe %s: %s: %s", url, res.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

func serve(port int, h http.Handler) error {
	s := &http.Server{Addr: fmt.Sprintf(":%d", port), Handler: h, ReadHeaderTimeout: 10 * time.Second}
	return s.ListenAndServe()
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// line returns the only line of a /proc or /sys file, "" if it cannot be read.
func line(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
