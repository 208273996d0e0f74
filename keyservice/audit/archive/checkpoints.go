package archive

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/audit"
)

// target is a root that the tree must have at a size, and who says so.
type target struct {
	size   uint64
	root   tlog.Hash
	anchor string // the file of a witness; empty: a checkpoint of the archive
}

// checkpoints reads the checkpoints of the archive: signed by a key that is trusted, and of this node.
func (l *log) checkpoints() {
	for _, size := range l.contents.checkpoints {
		if l.report.full() {
			return
		}
		name := checkpointName(size)
		signed, err := readFile(l.dir, name, maxNote)
		if err != nil {
			l.found(Finding{File: name, What: CheckpointWrong, Detail: err.Error()})
			continue
		}
		c, err := l.open(signed, l.node)
		if err == nil && uint64(c.Tree.N) != size {
			err = fmt.Errorf("it tells of %d entries", c.Tree.N)
		}
		if err == nil && size == 0 {
			err = fmt.Errorf("it tells of no entries")
		}
		if err != nil {
			l.found(Finding{File: name, What: CheckpointWrong, Detail: err.Error()})
			continue
		}
		l.aim(target{size: size, root: c.Tree.Hash})
		l.Origin, l.Signed, l.Time = c.Origin, size, c.Time
		l.sameInstallation(c, name)
	}
}

// open reads a checkpoint that claims to be one of the node's; of which installation is looked at afterwards.
func (v *verification) open(signed []byte, node string) (audit.Checkpoint, error) {
	installation, _, err := audit.OriginOf(signed)
	if err != nil {
		return audit.Checkpoint{}, err
	}
	return audit.OpenCheckpoint(signed, audit.Origin(installation, node), v.Keys)
}

func (l *log) sameInstallation(c audit.Checkpoint, file string) {
	installation, _, _ := audit.SplitOrigin(c.Origin) // was read before
	if l.Installation == "" {
		l.Installation = installation
	}
	if l.Installation != installation {
		l.found(Finding{File: file, What: InstallationOther, Detail: "it is of " + installation + ", and not of " + l.Installation})
		return
	}
	l.report.Installation = installation
}

func (l *log) aim(t target) {
	i, _ := slices.BinarySearchFunc(l.targets, t, func(a, b target) int { return cmp.Compare(a.size, b.size) })
	l.targets = slices.Insert(l.targets, i, t)
}

func (l *log) signedAt(size uint64) bool {
	_, found := slices.BinarySearch(l.contents.checkpoints, size)
	return found
}

// anchors reads the witnesses' checkpoints, and gives each to its log. Who has a witness wants all logs compared: one that
// the witness does not know is reported.
func (v *verification) anchors() {
	anchored := map[string]bool{}
	for _, a := range v.Anchors {
		_, node, err := audit.OriginOf(a.Signed)
		var c audit.Checkpoint
		if err == nil {
			c, err = v.open(a.Signed, node)
		}
		if err != nil {
			v.report.add(Finding{Node: "witness", File: a.Name, What: CheckpointWrong, Detail: err.Error()})
			continue
		}
		i := slices.IndexFunc(v.logs, func(l *log) bool { return l.node == node })
		switch {
		case i < 0:
			v.report.add(Finding{Node: node, What: FileMissing, Detail: "the witness has a checkpoint of this log in " + a.Name})
		case c.Tree.N > 0:
			v.logs[i].aim(target{size: uint64(c.Tree.N), root: c.Tree.Hash, anchor: a.Name})
			v.logs[i].sameInstallation(c, a.Name)
			anchored[node] = true
		}
	}
	for _, l := range v.logs {
		if len(v.Anchors) > 0 && !anchored[l.node] {
			l.found(Finding{What: WitnessSilent, Detail: "no checkpoint of this log was given with --anchor: its end may have been cut off"})
		}
	}
}

// compare holds both trees against every root that is known for their size.
func (l *log) compare() {
	size := l.entryTree.size
	for len(l.targets) > 0 && l.targets[0].size == size {
		t := l.targets[0]
		l.targets = l.targets[1:]
		l.hold(t, l.entryTree.root() == t.root, l.hashTree.root() == t.root)
	}
}

// hold reports what a root tells of the entries since the last one.
func (l *log) hold(t target, entries, hashes bool) {
	switch {
	case entries && hashes:
		l.passed(t)
	case entries:
		for _, d := range l.differences {
			l.found(Finding{File: hashesOf(l.segments, d.index), Index: at(d.index), What: HashesChanged, Detail: "the entry is the one that was signed"})
		}
		l.hashTree = l.entryTree.clone()
		l.passed(t)
	case hashes:
		for _, d := range l.differences {
			l.found(Finding{File: d.file, Line: d.line, Index: at(d.index), What: EntryChanged, Detail: "another one was signed"})
		}
		l.entryTree = l.hashTree.clone()
		l.passed(t)
	default:
		l.wrong(t)
	}
}

func (l *log) passed(t target) {
	l.report.Checked++
	if t.anchor != "" {
		l.Anchored = t.size
	}
	l.right, l.differences, l.lost = l.entryTree.size, nil, false
}

// wrong reports a root that the tree does not have. Of those that follow from it no more is said.
func (l *log) wrong(t target) {
	if t.anchor != "" {
		l.found(Finding{Anchor: t.anchor, What: WitnessDisagrees, Index: at(l.right), Last: at(t.size - 1), Detail: "one of these entries is another one there"})
		return
	}
	for _, d := range l.differences {
		l.found(Finding{File: d.file, Line: d.line, Index: at(d.index), What: EntryChanged, Detail: "its hash is another one, and neither was signed"})
	}
	if !l.lost {
		l.found(Finding{File: checkpointName(t.size), Index: at(l.right), Last: at(t.size - 1), What: RootWrong, Detail: "at least one of them, or the checkpoint"})
	}
	l.lost, l.differences = true, nil
}

func hashesOf(segments []segment, index uint64) string {
	for _, s := range segments {
		if index < s.end() {
			return s.hashesName()
		}
	}
	return ""
}

// tail reports what the checkpoints tell of beyond the last entry, and the entries beyond the last checkpoint.
func (l *log) tail() {
	entries := l.entryTree.size
	for _, t := range l.targets {
		f := Finding{File: checkpointName(t.size), Index: at(entries), Last: at(t.size - 1), What: Truncated, Detail: "these entries were signed, and are not in the archive: export again, or find out who removed them"}
		if t.anchor != "" {
			f.File, f.Anchor, f.Detail = "", t.anchor, "the witness saw these entries, and they are not in the archive: export again, or find out who removed them"
		}
		l.found(f)
	}
	for _, d := range l.differences {
		l.found(Finding{File: d.file, Line: d.line, Index: at(d.index), What: EntryChanged, Detail: "its hash is another one, and no checkpoint tells which is right"})
	}
	if l.Signed < entries {
		l.found(Finding{Index: at(l.Signed), Last: at(entries - 1), What: Unsigned, Detail: "export again, so that the archive ends on a signed checkpoint"})
	}
	if l.Pruned && l.First == entries {
		l.found(Finding{What: FileMissing, Detail: "not one of its entries is there: keep the newest segment, so that there is something to verify"})
	}
}

// keysFile looks whether the keys in the archive are trusted: who takes them for trustworthy must not be misled.
func (l *log) keysFile() {
	if !l.keys {
		return
	}
	text, err := readFile(l.dir, KeysFile, maxNote)
	if err != nil {
		l.found(Finding{File: KeysFile, What: KeysStrange, Detail: err.Error()})
		return
	}
	keys, err := audit.ParsePublicKeys(text)
	if err == nil && !bytes.Equal(pemOf(keys), text) {
		err = fmt.Errorf("it is written in another way")
	}
	for _, k := range keys {
		if !isAmong(k, l.Keys) {
			err = fmt.Errorf("the key with ID %08x was not given with --key", k.ID())
		}
	}
	if err != nil {
		l.found(Finding{File: KeysFile, What: KeysStrange, Detail: err.Error()})
	}
}
