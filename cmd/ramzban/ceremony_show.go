package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"ramzban/hsm"
)

// show says what the HSM holds and what the plan would do to it.
func (p Plan) show(out io.Writer, found hsm.CeremonyRecord, files ceremonyFiles, execute bool) error {
	title := "Key ceremony, dry run: the HSM is only read, and no file is written."
	if execute {
		title = "Key ceremony."
	}
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s\n\n", title)
	fmt.Fprintf(b, "Plan      %s, with SHA-256\n          %x\n", p.path, p.sha256)
	fmt.Fprintf(b, "Officers  %s\n", strings.Join(p.Officers, ", "))
	fmt.Fprintf(b, "Module    %s\n          %s %s, %s\n", found.Module.Path, found.Module.Description, found.Module.Version, found.Module.Manufacturer)
	fmt.Fprintf(b, "Token     %q, serial %s, %s, firmware %s\n\n", found.Token.Label, found.Token.Serial, found.Token.Model, found.Token.Firmware)
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tKCV\tWHAT IS TO BE DONE")
	for _, k := range found.Before {
		fmt.Fprintf(t, "%s\t%X\tnothing: known from an earlier ceremony\n", k.Key, k.KCV)
	}
	for i, k := range found.Keys {
		fmt.Fprintf(t, "%s\t%s\t%s\n", k.Key, p.Keys[i].kcvOrNone(), p.Keys[i].willDo())
	}
	_ = t.Flush() // into memory
	fmt.Fprintln(b)
	writes := "made"
	if files.answers != nil {
		writes = "extended"
	}
	fmt.Fprintf(b, "Files     %s (%s)\n", files.KnownAnswers, writes)
	for _, path := range files.transcripts() {
		fmt.Fprintf(b, "          %s (made)\n", path)
	}
	if !execute {
		fmt.Fprintf(b, "\nNothing stands in the way. To do it: ramzban ceremony --plan %s --execute\n", p.path)
	}
	_, err := io.WriteString(out, b.String()+"\n")
	return err
}

func (k PlanKey) kcvOrNone() string {
	if k.KCV == nil {
		return "-"
	}
	return k.KCV.String()
}

func (k PlanKey) willDo() string {
	switch k.Origin {
	case hsm.VendorClone:
		return "adopt it as it is"
	case hsm.Components:
		var names []string
		for _, c := range k.Components {
			names = append(names, c.Custodian)
		}
		return "import it from components of " + strings.Join(names, ", ")
	}
	return "generate it in the HSM"
}

// showHeld says what was done, and how to check it.
func (p Plan) showHeld(out io.Writer, held hsm.CeremonyRecord, files ceremonyFiles) error {
	b := &strings.Builder{}
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tKCV\tORIGIN")
	for _, k := range held.Keys {
		fmt.Fprintf(t, "%s\t%X\t%s\n", k.Key, k.KCV, k.Origin)
	}
	_ = t.Flush() // into memory
	fmt.Fprintf(b, "\nThe ceremony was held. Its keys were read back, proven and noted in\n  %s\n", files.KnownAnswers)
	fmt.Fprintf(b, "which the service reads (hsm.known_answer_file). To check the transcript:\n")
	fmt.Fprintf(b, "  openssl dgst -sha256 -verify %s \\\n    -signature %s \\\n    %s\n",
		files.Transcript+publicSuffix, files.Transcript+signatureSuffix, files.Transcript)
	_, err := io.WriteString(out, b.String())
	return err
}
