package audit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"ramzban/keyservice/store"
)

// ErrCheckpoint: a text is not a checkpoint as this service writes them.
var ErrCheckpoint = errors.New("not a checkpoint of an audit log")

// Checkpoint says what a node's log was at a moment: its first Tree.N entries, and no others, are in the tree. Its text is
// that of https://c2sp.org/tlog-checkpoint: the origin, the size, the root hash in base64, and extension lines of a word and
// a value: time, when it was made (RFC 3339, UTC, milliseconds), and those of ring, officers and witness that are not 0.
type Checkpoint struct {
	Origin   string
	Tree     tlog.Tree
	Time     time.Time
	Ring     uint64 // revision of the key ring that was in use; 0: it does not say
	Officers uint64 // revision of the row of officers; 0: it does not say
	Witness  int64  // size of the checkpoint that the node's witness had taken before; 0: none, or it does not say
}

// CheckpointPrefix begins the keys of the rows that hold the newest checkpoint of each node, a signed note; the node follows.
const CheckpointPrefix store.Key = "n/"

// CheckpointKey is the row of a node's newest checkpoint.
func CheckpointKey(node string) store.Key { return CheckpointPrefix + store.Key(node) }

const originPrefix = "ramzban/"

// Origin is the identity under which a node of an installation signs its log.
func Origin(installation, node string) string { return originPrefix + installation + "/" + node }

// SplitOrigin is the inverse of Origin.
func SplitOrigin(origin string) (installation, node string, err error) {
	rest, ours := strings.CutPrefix(origin, originPrefix)
	installation, node, found := strings.Cut(rest, "/")
	if !ours || !found || store.CheckNode(installation) != nil || store.CheckNode(node) != nil {
		return "", "", fmt.Errorf("%w: the origin %q is no node of Ramzban", ErrCheckpoint, origin)
	}
	return installation, node, nil
}

const (
	timeWord     = "time "
	ringWord     = "ring "
	officersWord = "officers "
	witnessWord  = "witness "
	timeLayout   = "2006-01-02T15:04:05.000Z"
)

// Text is what is signed.
func (c Checkpoint) Text() string {
	text := fmt.Sprintf("%s\n%d\n%s\n%s%s\n", c.Origin, c.Tree.N, c.Tree.Hash, timeWord, c.Time.UTC().Format(timeLayout))
	if c.Ring > 0 {
		text += fmt.Sprintf("%s%d\n", ringWord, c.Ring)
	}
	if c.Officers > 0 {
		text += fmt.Sprintf("%s%d\n", officersWord, c.Officers)
	}
	if c.Witness > 0 {
		text += fmt.Sprintf("%s%d\n", witnessWord, c.Witness)
	}
	return text
}

// ParseCheckpoint reads what Text wrote, and nothing else.
func ParseCheckpoint(text string) (Checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 5 || !strings.HasPrefix(lines[3], timeWord) {
		return Checkpoint{}, fmt.Errorf("%w: it has not the lines of one", ErrCheckpoint)
	}
	if _, _, err := SplitOrigin(lines[0]); err != nil {
		return Checkpoint{}, err
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Checkpoint{}, fmt.Errorf("%w: its size is no number", ErrCheckpoint)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Checkpoint{}, fmt.Errorf("%w: its root is no hash", ErrCheckpoint)
	}
	at, err := time.Parse(timeLayout, strings.TrimPrefix(lines[3], timeWord))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: its time cannot be read", ErrCheckpoint)
	}
	c := Checkpoint{Origin: lines[0], Tree: tlog.Tree{N: size, Hash: tlog.Hash(root)}, Time: at}
	c.readMore(lines[4:])
	if c.Text() != text {
		return Checkpoint{}, fmt.Errorf("%w: it is written in another way", ErrCheckpoint)
	}
	return c, nil
}

// readMore reads the lines behind the time. What it cannot read it leaves out: then the text is not the same again.
func (c *Checkpoint) readMore(lines []string) {
	for _, line := range lines {
		if n, found := strings.CutPrefix(line, ringWord); found {
			c.Ring, _ = strconv.ParseUint(n, 10, 64)
		}
		if n, found := strings.CutPrefix(line, officersWord); found {
			c.Officers, _ = strconv.ParseUint(n, 10, 64)
		}
		if n, found := strings.CutPrefix(line, witnessWord); found {
			c.Witness, _ = strconv.ParseInt(n, 10, 64)
		}
	}
}

// Sign returns the signed note.
func (c Checkpoint) Sign(ctx context.Context, sign SignFunc) ([]byte, error) {
	text := c.Text()
	if _, err := ParseCheckpoint(text); err != nil {
		return nil, err // such as a year of five digits: nobody could read it
	}
	return signText(ctx, c.Origin, text, sign)
}

// OpenCheckpoint reads a signed note: ErrSignature unless one of the keys signed it as its origin, ErrCheckpoint if the
// origin is another one or the text is no checkpoint.
func OpenCheckpoint(signed []byte, origin string, keys []PublicKey) (Checkpoint, error) {
	first, _, _ := strings.Cut(string(signed), "\n")
	if first != origin {
		return Checkpoint{}, fmt.Errorf("%w: it is not of %s", ErrCheckpoint, origin)
	}
	text, err := openText(signed, origin, keys)
	if err != nil {
		return Checkpoint{}, err
	}
	return ParseCheckpoint(text)
}

// PeekCheckpoint reads a signed note without looking for who signed it.
func PeekCheckpoint(signed []byte) (Checkpoint, error) {
	text, _, found := strings.Cut(string(signed), "\n\n")
	if !found {
		return Checkpoint{}, fmt.Errorf("%w: it is no signed note", ErrCheckpoint)
	}
	return ParseCheckpoint(text + "\n")
}

// OriginOf returns the origin that a signed note claims; nothing of it was checked.
func OriginOf(signed []byte) (installation, node string, err error) {
	first, _, _ := strings.Cut(string(signed), "\n")
	return SplitOrigin(first)
}
