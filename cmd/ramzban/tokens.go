package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"ramzban/api/client"
	"ramzban/api/wire"
)

func tokensCommand() *cobra.Command {
	return group("tokens", "Issue tokens for many customers at once, and take in seeds of hardware tokens",
		tokensIssueCommand(), tokensImportClearCommand())
}

// issueFlags say what to issue tokens for: a file, or accounts that are counted.
type issueFlags struct {
	file, out string
	count     int
	prefix    string
	token     wire.IssueRequest // of counted accounts
}

func tokensIssueCommand() *cobra.Command {
	var o client.Options
	var f issueFlags
	c := &cobra.Command{
		Use:   "issue --out OUT (--file IN | --count N --account-prefix P)",
		Short: "Issue a batch of tokens; run it again to go on after an interruption",
		Long: "Issues a token for each line of IN, or for N accounts named P-000001 and so on, in one stream.\n\n" +
			"IN is NDJSON, each line an issue request as in POST /v1/tokens, or CSV with a header of the same\n" +
			"field names, separated by commas (several uses in one field are separated by spaces). Before\n" +
			"anything is sent the form of all of IN is checked: that every line can be read, has no other\n" +
			"fields, and has a class, subject, channel and profile. What stands in them is judged by the service:\n" +
			"it refuses, say, a wrong card number, or a subject that is there twice, and issues the rest.\n\n" +
			"OUT gets a line for each token: its number in IN (from 1; the header and empty lines of CSV do not\n" +
			"count), the serial and the id of the activation code for the courier, or why it was refused. It\n" +
			"holds no card number, account or code. If anything interrupts the batch, run the same command with\n" +
			"the same OUT again: it sends what has no answer yet, and nothing is issued twice. Tokens that were\n" +
			"refused are not tried again, unless the service was unable to decide; for those that you have\n" +
			"corrected make another IN and another OUT.\n\n" +
			"The exit status is 0 if every token was issued.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			source, err := f.source(c.Flags().Changed)
			if err != nil {
				return err
			}
			return issueBatch(c.Context(), source, f.out, o, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	clientFlags(c, &o, "branch")
	flags := c.Flags()
	flags.StringVar(&f.file, "file", "", "what to issue: `IN`, .ndjson or .csv")
	flags.StringVar(&f.out, "out", "", "the answers: `OUT`, made if it is not there")
	flags.IntVar(&f.count, "count", 0, "issue for `N` accounts instead")
	flags.StringVar(&f.prefix, "account-prefix", "", "what their ids begin with, `P`")
	flags.StringVar(&f.token.Channel, "channel", "app", "app, pwa, hardware or sms, `CHANNEL` (with --count)")
	flags.StringVar(&f.token.Profile, "profile", "offline-60", "a configured profile, `NAME` (with --count)")
	flags.StringSliceVar(&f.token.Uses, "use", []string{}, "what the passwords are good for, `USE`; may be repeated (with --count)")
	return c
}

// source finds out which of the two is wanted, and refuses flags that would have no effect.
func (f issueFlags) source(given func(string) bool) (tokenSource, error) {
	if f.out == "" {
		return nil, errors.New("--out is missing: name the file for the answers")
	}
	if (f.file == "") == !given("count") {
		return nil, errors.New("give either --file or --count")
	}
	if f.file != "" {
		for _, name := range []string{"account-prefix", "channel", "profile", "use"} {
			if given(name) {
				return nil, fmt.Errorf("--%s goes with --count: with --file, each line says it", name)
			}
		}
		return fileSource(f.file)
	}
	if f.count < 1 || f.prefix == "" {
		return nil, errors.New("--count must be at least 1, and goes with --account-prefix")
	}
	f.token.Class = "account"
	return countedAccounts{prefix: f.prefix, count: f.count, token: f.token}, nil
}

// issueBatch issues what has no answer in OUT yet, and reports on all of the batch.
func issueBatch(ctx context.Context, source tokenSource, out string, o client.Options, report, status io.Writer) (err error) {
	in, err := survey(source)
	if err != nil {
		return err
	}
	api, err := openClient(o)
	if err != nil {
		return err
	}
	defer api.Close()
	answers, err := openAnswers(out, in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answers.close()) }()
	if answers.left() > 0 {
		if err := runBatch(ctx, api, source, answers, status); err != nil {
			if ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			return fmt.Errorf("%w: %d of %d tokens have no answer yet: run the same command again", explainCall(err), answers.left(), answers.total())
		}
	}
	return answers.conclude(report)
}

// runBatch sends each token that has no answer, and writes the answers down as they come.
func runBatch(ctx context.Context, api *client.Client, source tokenSource, answers *answersFile, status io.Writer) error {
	tokens, err := source.open()
	if err != nil {
		return err
	}
	defer tokens.close()
	waiting := answers.waiting() // as it is now: answers change while lines are sent
	bar := newProgress(status, answers.total(), answers.total()-answers.left())
	defer bar.end()
	number := 0
	next := func() (wire.BulkLine, bool, error) {
		for {
			token, more, err := tokens.next()
			if err != nil || !more {
				return wire.BulkLine{}, false, err
			}
			if number++; number > len(waiting) {
				return wire.BulkLine{}, false, errInputChanged
			}
			if waiting[number-1] {
				return wire.BulkLine{Key: answers.key(number), Token: token}, true, ctx.Err()
			}
		}
	}
	_, err = api.BulkIssue(ctx, next, func(a wire.BulkAnswer) error {
		bar.add()
		return answers.add(a)
	})
	return errors.Join(err, answers.sync())
}
