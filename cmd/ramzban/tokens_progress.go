package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progressEvery is how often a line says how far a batch is, where there is no terminal to draw a bar on.
const progressEvery = 5 * time.Second

// progress shows how far a batch is.
type progress interface {
	add() // one more
	end()
}

func newProgress(w io.Writer, total, done int) progress {
	if f, is := w.(*os.File); is && isTerminal(f) {
		return newBar(f, total, done)
	}
	return &progressLines{w: w, total: total, done: done, said: time.Now()}
}

// progressBar is drawn on a terminal.
type progressBar struct {
	all *mpb.Progress
	bar *mpb.Bar
}

func newBar(f *os.File, total, done int) *progressBar {
	all := mpb.New(mpb.WithOutput(f), mpb.WithWidth(60))
	bar := all.AddBar(int64(total),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d tokens ")),
		mpb.AppendDecorators(decor.Percentage(), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	bar.SetCurrent(int64(done))
	return &progressBar{all: all, bar: bar}
}

func (p *progressBar) add() { p.bar.Increment() }

func (p *progressBar) end() {
	p.bar.Abort(false) // does nothing to a bar that is full
	p.all.Wait()
}

// progressLines are written where a bar cannot be drawn, such as a log.
type progressLines struct {
	w           io.Writer
	total, done int
	said        time.Time
}

func (p *progressLines) add() {
	p.done++
	if now := time.Now(); now.Sub(p.said) >= progressEvery {
		p.said = now
		p.say()
	}
}

func (p *progressLines) end() { p.say() }

// say is best effort: the batch is what counts, and OUT says the same.
func (p *progressLines) say() { _, _ = fmt.Fprintf(p.w, "%d of %d tokens\n", p.done, p.total) }
