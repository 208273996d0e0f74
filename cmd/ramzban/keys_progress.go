package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"ramzban/api/wire"
)

// rotationProgress shows how far a rotation's pass over the tokens is: as a bar on a terminal, else as lines.
type rotationProgress struct {
	w    io.Writer
	all  *mpb.Progress
	bar  *mpb.Bar
	said time.Time
}

func newRotationProgress(w io.Writer) *rotationProgress {
	p := &rotationProgress{w: w}
	if f, is := w.(*os.File); is && isTerminal(f) {
		p.all = mpb.New(mpb.WithOutput(f), mpb.WithWidth(60))
		p.bar = p.all.AddBar(0, mpb.PrependDecorators(decor.CountersNoUnit("%d of %d tokens ")), mpb.AppendDecorators(decor.Percentage()))
	}
	return p
}

func (p *rotationProgress) set(r wire.Rotation) {
	if p.bar != nil {
		p.bar.SetTotal(int64(r.Tokens), false)
		p.bar.SetCurrent(int64(r.Seen))
		return
	}
	if now := time.Now(); now.Sub(p.said) >= progressEvery {
		p.said = now
		_, _ = fmt.Fprintln(p.w, rotationSays(r)) // best effort: `ramzban rotations` says the same
	}
}

func (p *rotationProgress) end() {
	if p.bar != nil {
		p.bar.Abort(false) // does nothing to a bar that is full
		p.all.Wait()
	}
}

// rotationSays is a rotation in one line.
func rotationSays(r wire.Rotation) string {
	says := fmt.Sprintf("%s/%d to %d: %s, %d of %d tokens seen, %d renewed", r.Label, r.From, r.To, r.Status, r.Seen, r.Tokens, r.Renewed)
	if r.Failures > 0 {
		says += fmt.Sprintf(", %d cannot be renewed", r.Failures)
	}
	if r.Left > 0 {
		says += fmt.Sprintf(", %d rows left", r.Left)
	}
	return says
}
