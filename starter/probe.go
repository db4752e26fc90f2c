package starter

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/netprobe"
)

// terminationLog is where a container says what its pod's status then has.
const terminationLog = "/dev/termination-log"

// probe is what the pods of ValidateNetwork run.
func (c *cli) probe() *cobra.Command {
	return &cobra.Command{
		Use:    "probe ADDRESS:PORT/open|closed...",
		Short:  "Try connections, as the pods of ValidateNetwork do",
		Hidden: true,
		Long: `Try to connect to each address over TCP until it answers the same for a while, longer where that is
not as expected, and print one character for each: r reached, c refused, s no answer, u now this, now that. Nothing is sent.
In a pod it is written to ` + terminationLog + ` too.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, words []string) error {
			to, err := netprobe.Addresses(words)
			if err != nil {
				return usage{err}
			}
			text := netprobe.Write(netprobe.Try(cmd.Context(), to))
			fmt.Fprintln(c.out, text)
			log, err := os.OpenFile(terminationLog, os.O_WRONLY, 0) // never made: only a container has it
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := log.WriteString(text); err != nil {
				_ = log.Close() // the first error says it
				return err
			}
			return log.Close()
		},
	}
}
