package main

import (
	"io"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// copyProgress draws a bar for each step of a copy, on a terminal only.
type copyProgress struct {
	all  *mpb.Progress // nil: nothing is drawn
	step string
	bar  *mpb.Bar
}

func newCopyProgress(w io.Writer) *copyProgress {
	f, is := w.(*os.File)
	if !is || !isTerminal(f) {
		return &copyProgress{}
	}
	return &copyProgress{all: mpb.New(mpb.WithOutput(f), mpb.WithWidth(60))}
}

// report is a transfer.Report.
func (p *copyProgress) report(step string, done, all uint64) {
	if p.all == nil {
		return
	}
	if p.step != step {
		p.stop()
		p.step, p.bar = step, p.all.AddBar(int64(all),
			mpb.PrependDecorators(decor.CountersNoUnit("%d of %d rows "+step+" ")),
			mpb.AppendDecorators(decor.Percentage(), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	}
	p.bar.SetCurrent(int64(done))
}

func (p *copyProgress) stop() {
	if p.bar != nil {
		p.bar.Abort(false) // does nothing to a bar that is full
	}
}

// end leaves the bars as they are.
func (p *copyProgress) end() {
	p.stop()
	if p.all != nil {
		p.all.Wait()
	}
}
