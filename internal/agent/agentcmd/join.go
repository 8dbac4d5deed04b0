package agentcmd

import (
	"fmt"
	"os"

	"afloat/internal/agent"
	"afloat/internal/fleet"

	"github.com/spf13/cobra"
)

func (c *commands) join() *cobra.Command {
	var o agent.JoinOptions
	var labels map[string]string
	var ceiling string
	cmd := &cobra.Command{
		Use:   "join --server https://HOST:PORT --token TOKEN --publisher-key FILE",
		Short: "Enrol this host with a server",
		Long: "Enrol this host with a server. The token, used up by this, pins the server's certificate authority.\n" +
			"The publisher's public key must come to the host by another way than through that server: it is what\n" +
			"keeps a stolen server from loading code. The host begins in observe mode, whatever its ceiling.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Folder, o.Settings.Labels, o.Settings.Ceiling = c.folder, labels, fleet.Mode(ceiling)
			if o.Settings.Ceiling != fleet.ModeAct && o.Settings.Ceiling != fleet.ModeObserve {
				return fmt.Errorf("cannot use ceiling %q: it is observe or act", ceiling)
			}
			if o.Settings.Name == "" {
				name, err := os.Hostname()
				if err != nil {
					return fmt.Errorf("find this host's name: %w", err)
				}
				o.Settings.Name = name
			}
			id, err := agent.Join(cmd.Context(), o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "joined %s as host %s (%s), ceiling %s\n", id.Server, id.Host, o.Settings.Name, ceiling)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Server, "server", "", "the server's HTTPS address: https://HOST:PORT")
	f.StringVar(&o.Token, "token", "", "one-time join token")
	f.StringVar(&o.PublisherKey, "publisher-key", "", "publisher's public key, pinned on this host; may be left out if publishers.d has one")
	f.StringToStringVarP(&labels, "label", "l", nil, "label of this host, key=value; may be repeated")
	f.StringVar(&o.Settings.Name, "name", "", "name of this host for people (default: its host name)")
	f.StringVar(&ceiling, "ceiling", string(fleet.ModeAct), "the most that the server may raise this host to: observe or act")
	for _, name := range []string{"server", "token"} {
		_ = cmd.MarkFlagRequired(name) // fails only for a flag that is not there
	}
	return cmd
}
