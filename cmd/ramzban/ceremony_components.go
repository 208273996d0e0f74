package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"ramzban/hsm"
)

// clearScreen empties the screen and what was scrolled out of it.
const clearScreen = "\x1b[H\x1b[2J\x1b[3J"

func ceremonyComponentsCommand() *cobra.Command {
	var path string
	var k PlanKey
	var custodians []string
	c := &cobra.Command{
		Use:   "components --plan FILE --label LABEL --custodian NAME --custodian NAME",
		Short: "Draw the components of a key, and show each to its custodian alone",
		Long: "Draws the components of a key from the generator of the HSM that the plan names, and shows each to its custodian, who\n" +
			"writes it down. Then it prints what to put into a plan. Nothing is kept and no key is made. It runs at a terminal only.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := loadPlan(path)
			if err != nil {
				return err
			}
			if err := forbidCoreDumps(); err != nil {
				return err // components are in memory
			}
			if err := checkNames("--custodian", custodians); err != nil {
				return err
			}
			screen, ok := typedAt(c.OutOrStdout())
			keys, typed := typedAt(c.InOrStdin())
			if !ok || !typed {
				return errors.New("components are shown at a terminal only: so that they end in no file")
			}
			return p.draw(c.Context(), keys, screen, k, custodians)
		},
	}
	f := c.Flags()
	f.StringVar(&path, "plan", "", "a plan for the same HSM, a YAML `FILE`")
	f.StringVar(&k.Label, "label", "", "the key's `LABEL`, such as wrap")
	f.Uint32Var(&k.Version, "version", 1, "the key's version, a whole `NUMBER`")
	f.StringArrayVar(&custodians, "custodian", nil, "the `NAME` of a custodian; once for each")
	for _, name := range []string{"plan", "label", "custodian"} {
		_ = c.MarkFlagRequired(name) // fails only for a flag that is not there
	}
	return c
}

// draw shows each custodian a component and prints the plan's entry for the key.
func (p Plan) draw(ctx context.Context, keys *os.File, screen io.Writer, k PlanKey, custodians []string) error {
	config, err := p.config()
	if err != nil {
		return err
	}
	drawn, err := hsm.DrawComponents(ctx, config, k.Label, len(custodians))
	defer func() {
		for _, share := range drawn {
			clear(share)
		}
	}()
	if err != nil {
		return explainCeremony(err)
	}
	whole := make([]byte, len(drawn[0]))
	defer clear(whole)
	for i, name := range custodians {
		kcv, err := hsm.ShareKCV(k.Label, drawn[i])
		if err != nil {
			return err
		}
		if err := showShare(ctx, keys, screen, name, drawn[i], kcv); err != nil {
			return err
		}
		subtle.XORBytes(whole, whole, drawn[i])
		k.Components = append(k.Components, PlanComponent{name, kcv})
	}
	if k.KCV, err = hsm.ShareKCV(k.Label, whole); err != nil {
		return err
	}
	_, err = fmt.Fprintf(screen, "Put this into the plan, under keys:\n%s", k.entry())
	return err
}

// showShare shows a component from one Enter to the next.
func showShare(ctx context.Context, keys *os.File, screen io.Writer, name string, share, kcv []byte) error {
	say := func(text string) func() error {
		return func() error { _, err := io.WriteString(screen, text); return err }
	}
	if _, err := readHidden(ctx, keys, say(name+", alone at the screen: press Enter to see your component. ")); err != nil {
		return err
	}
	text := fmt.Sprintf("\n\n%s\nkey check value %X\n\nWrite both down. Press Enter to clear the screen. ", groups(share), kcv)
	_, err := readHidden(ctx, keys, say(text))
	return errors.Join(err, say(clearScreen)())
}

// groups writes bytes in hex, 32 of them in a line.
func groups(b []byte) string {
	var s strings.Builder
	for i, v := range b {
		fmt.Fprintf(&s, "%02x", v)
		switch {
		case i%32 == 31:
			s.WriteByte('\n')
		case i%4 == 3:
			s.WriteByte(' ')
		}
	}
	return s.String()
}

// entry is a key from components as it stands in a plan.
func (k PlanKey) entry() string {
	var s strings.Builder
	fmt.Fprintf(&s, "  - label: %s\n    version: %d\n    origin: %s\n    kcv: %q\n    components:\n", k.Label, k.Version, hsm.Components, k.KCV.String())
	for _, c := range k.Components {
		fmt.Fprintf(&s, "      - {custodian: %q, kcv: %q}\n", c.Custodian, c.KCV.String())
	}
	return s.String()
}
