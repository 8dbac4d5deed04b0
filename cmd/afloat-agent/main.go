// Command afloat-agent is the small daemon on each host.
package main

func main() {}
