// Command afloat is everything an operator types: server, CLI, build and lab.
package main

import (
	"os"

	"afloat/internal/cli"
)

func main() { os.Exit(cli.Main()) }
