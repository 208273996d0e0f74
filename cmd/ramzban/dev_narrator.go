package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// narrator shows a demonstration step by step, in 80 columns.
type narrator struct {
	out   io.Writer
	wrote error // of out, the first
	steps int
}

func (n *narrator) title(what, why string) {
	n.steps++
	_ = n.print("\n%d. %s\n%s\n", n.steps, what, wrap(why, "   "))
}

func (n *narrator) print(format string, a ...any) error {
	if _, err := fmt.Fprintf(n.out, format+"\n", a...); err != nil && n.wrote == nil {
		n.wrote = fmt.Errorf("showing the demonstration: %w", err)
	}
	return n.wrote
}

// longString is what does not fit 80 columns: keys and wrapped seeds.
var longString = regexp.MustCompile(`"[^" ]{48,}"`)

// show writes JSON in as few lines as it needs below the line that announces it, with long strings cut.
func show(v any) string {
	if v == nil {
		return ""
	}
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return " (cannot be shown: " + err.Error() + ")"
	}
	text := longString.ReplaceAllStringFunc(string(b), func(s string) string {
		return fmt.Sprintf("%s…%s(%d%scharacters)\"", s[:25], unbroken, len(s)-2, unbroken)
	})
	text = brackets.ReplaceAllString(text, "$1$2")
	text = wrap(strings.ReplaceAll(text, `": `, `":`+unbroken), "    ")
	return "\n" + strings.ReplaceAll(text[1:], unbroken, " ") // all lines but the first stand behind the bracket
}

// brackets are those of indented JSON, with the line ends inside them.
var brackets = regexp.MustCompile(`([\[{])\n *|\n *([\]}])`)

// unbroken stands for a space at which no line ends: JSON has no such character.
const unbroken = "\x00"

// wrap breaks text into lines of at most 80 columns, each with the indent.
func wrap(text, indent string) string {
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > 80 {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}
