package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
	"ramzban/keyservice"
)

func keysFeedCommand() *cobra.Command {
	var o officer
	var days int
	var open bool
	c := &cobra.Command{
		Use:   "feed (--open | ID FILE)",
		Short: "Feed customers to a new lookup key, after another officer has approved it",
		Long: "With --open it proposes a feed. Once that is approved, ID is the proposal's, and FILE holds the customers, one JSON\n" +
			"object a line: {\"class\":\"card\",\"subject\":\"6037991234567893\"}; - is standard input. It may be run again with the\n" +
			"same file. The list is kept nowhere, and nobody is told who of it is a customer: `ramzban rotations` shows how many\n" +
			"rows are left, once it has counted again.",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case open && len(args) == 0:
				return o.propose(c.Context(), c.OutOrStdout(), keyservice.ActionFeed, func(wire.ProposalsAnswer) (any, error) {
					return keyservice.SubjectFeed{Days: days}, nil
				})
			case !open && len(args) == 2:
				return feedFile(c.Context(), c.OutOrStdout(), c.InOrStdin(), o.options, args[0], args[1])
			}
			return errors.New("give --open, to propose a feed, or the approved proposal's id and a file")
		},
	}
	proposerFlags(c, &o)
	c.Flags().BoolVar(&open, "open", false, "propose a feed")
	c.Flags().IntVar(&days, "days", 7, "with --open: how many `DAYS` the feed stays open, 1 to 30")
	return c
}

// feedFile hands the customers of a file over, in parts.
func feedFile(ctx context.Context, w io.Writer, in io.Reader, o client.Options, id, path string) error {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	total := feedTotal{}
	lines := bufio.NewScanner(in)
	for done := false; !done; {
		var part wire.FeedRequest
		if part.Subjects, done, err = nextPart(lines, total.lines); err != nil {
			return err
		}
		if len(part.Subjects) == 0 {
			break
		}
		answer, err := api.Feed(ctx, id, part)
		if err != nil {
			return fmt.Errorf("feeding, after %d lines: %w", total.lines, explainCall(err))
		}
		total.add(len(part.Subjects), answer)
	}
	return total.print(w)
}

// nextPart reads the next customers. It names the line that is wrong, and nothing of what stands there.
func nextPart(lines *bufio.Scanner, before int) (part []wire.FedSubject, done bool, err error) {
	for len(part) < keyservice.MaxFed {
		if !lines.Scan() {
			return part, true, lines.Err()
		}
		var s wire.FedSubject
		d := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		d.DisallowUnknownFields()
		if d.Decode(&s) != nil || s.Class == "" || s.Subject == "" {
			return nil, true, fmt.Errorf("line %d is not {\"class\":…,\"subject\":…}", before+len(part)+1)
		}
		part = append(part, s)
	}
	return part, false, nil
}

// feedTotal sums up what became of the parts.
type feedTotal struct {
	lines, fed int
	malformed  []int // lines, from 1
}

func (t *feedTotal) add(lines int, a wire.FeedAnswer) {
	for _, i := range a.Malformed {
		t.malformed = append(t.malformed, t.lines+i+1)
	}
	t.lines, t.fed = t.lines+lines, t.fed+a.Fed
}

func (t *feedTotal) print(w io.Writer) error {
	if _, err := fmt.Fprintf(w, "%d lines: %d fed\n", t.lines, t.fed); err != nil {
		return err
	}
	if len(t.malformed) > 0 {
		return fmt.Errorf("%d lines are no card number or account id, the first is line %d: correct them, and feed them again", len(t.malformed), t.malformed[0])
	}
	return nil
}
