package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ramzban/hsm"
)

// The files beside a transcript: its signature, and the public audit key that it is checked with.
const (
	signatureSuffix = ".sig"
	publicSuffix    = ".pem"
)

// ceremonyFiles are the files of a ceremony, as they were before it.
type ceremonyFiles struct {
	PlanOutput
	answers  []byte // the known answers of earlier ceremonies; nil if there is no such file
	existing os.FileMode
}

// openFiles refuses files that are there already, and folders that are not; the known answers of earlier ceremonies are
// read.
func (o PlanOutput) openFiles() (ceremonyFiles, []hsm.KnownAnswer, error) {
	f := ceremonyFiles{PlanOutput: o, existing: publicFile}
	for _, path := range f.transcripts() {
		if _, err := os.Lstat(path); err == nil {
			return f, nil, wrong("output.transcript", "%s is there already: a ceremony is held once; name a new file for another", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return f, nil, wrong("output.transcript", "%v", err)
		}
	}
	for _, path := range []string{o.Transcript, o.KnownAnswers} {
		if info, err := os.Stat(filepath.Dir(path)); err != nil || !info.IsDir() {
			return f, nil, wrong("output", "%s is no folder: make it", filepath.Dir(path))
		}
	}
	known, err := f.readAnswers()
	return f, known, err
}

func (o PlanOutput) transcripts() []string {
	return []string{o.Transcript, o.Transcript + signatureSuffix, o.Transcript + publicSuffix}
}

func (f *ceremonyFiles) readAnswers() ([]hsm.KnownAnswer, error) {
	info, err := os.Lstat(f.KnownAnswers)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a file")
	}
	if err == nil {
		f.existing = info.Mode().Perm()
		f.answers, err = os.ReadFile(f.KnownAnswers)
	}
	if err != nil {
		return nil, wrong("output.known_answers", "%s: %v", f.KnownAnswers, err)
	}
	var known []hsm.KnownAnswer
	if err := json.Unmarshal(f.answers, &known); err != nil {
		return nil, wrong("output.known_answers", "%s is not the known answers of a key ceremony: %v", f.KnownAnswers, err)
	}
	return known, nil
}

// publish writes all files of the ceremony or none. The known answers come last: from then on the service may be started.
func (f ceremonyFiles) publish(transcript, signature, public, answers []byte) error {
	var made []string
	var err error
	for i, content := range [][]byte{transcript, signature, public} {
		path := f.transcripts()[i]
		if err = createFile(path, content, publicFile); !errors.Is(err, fs.ErrExist) {
			made = append(made, path)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		if err = f.replaceAnswers(answers); err == nil {
			return nil
		}
		err = errors.Join(err, f.restoreAnswers(answers))
	}
	for _, path := range made {
		if rerr := os.Remove(path); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// replaceAnswers puts the known answers of all ceremonies in the place of those of the earlier ones, in one step.
func (f ceremonyFiles) replaceAnswers(answers []byte) error {
	now, err := os.ReadFile(f.KnownAnswers)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(now, f.answers) || (err == nil) != (f.answers != nil) {
		return fmt.Errorf("%s was changed meanwhile: hold one ceremony at a time", f.KnownAnswers)
	}
	return replaceFileWith(f.KnownAnswers, answers, f.existing)
}

// restoreAnswers: the answers may have been replaced although replacing them failed.
func (f ceremonyFiles) restoreAnswers(answers []byte) error {
	now, err := os.ReadFile(f.KnownAnswers)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && !bytes.Equal(now, answers):
		return nil
	case err != nil:
		return err
	case f.answers == nil:
		return os.Remove(f.KnownAnswers)
	}
	return replaceFileWith(f.KnownAnswers, f.answers, f.existing)
}
