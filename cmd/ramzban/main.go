// Command ramzban is the OTP key service, and what people need around it: its configuration, a development set-up, a
// demonstration, a reference phone and an auditor's view.
//
// It must hold no rule of the service itself: it reads flags and files, joins the packages, and reports.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ramzban: "+oneLine(err))
		os.Exit(exitStatus(err))
	}
}
