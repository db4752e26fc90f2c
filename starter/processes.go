package starter

import (
	"github.com/spf13/cobra"

	"github.com/upkeep-run/upkeep/internal/procread"
)

// processes is what the reader pods of ContainIncident run.
func (c *cli) processes() *cobra.Command {
	return &cobra.Command{
		Use:    "processes UID:CONTAINER,CONTAINER...",
		Short:  "List the processes and connections of pods, as the reader pods of ContainIncident do",
		Hidden: true,
		Long: `Look twice, ` + procread.Apart.String() + ` apart, for the processes and TCP sockets of pods in /proc, by the pods' UIDs and the
ids of their containers, and print them as one line of JSON. It sees what is in its own namespace of
process ids, so in a pod it takes hostPID. Nothing is changed. Values of arguments that look like secrets
are left out.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, words []string) error {
			pods, err := procread.Pods(words)
			if err != nil {
				return usage{err}
			}
			seen, err := procread.Watch(cmd.Context(), "/proc", pods, procread.Apart)
			if err != nil {
				return err
			}
			return procread.Write(c.out, seen)
		},
	}
}
