package keyservice

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"

	"ramzban/keyservice/seed"
)

// A file of seeds in clear has one JSON object a line, {"device":"GX-000123","hash":"SHA1","seed":"3132…"}, without empty
// lines: the serial that the maker printed on the device, the hash of its HMAC, and the seed in hexadecimal.
const (
	MaxClearSeeds = 1000      // lines of one file
	MaxClearFile  = 256 << 10 // bytes of one file: its longest line has less than 256
)

// deviceSerial is short enough that no seed in hexadecimal or base32, written into the wrong field, passes for a serial:
// those stand in the log for ever.
var deviceSerial = regexp.MustCompile(`^[A-Za-z0-9._-]{1,24}$`)

// clearSeed is a line of the file. The seed lies in a buffer of its own, which wipe clears.
type clearSeed struct {
	device string
	hash   seed.Hash
	seed   []byte
}

func wipe(seeds []clearSeed) {
	for _, c := range seeds {
		clear(c.seed)
	}
}

// CheckClearSeeds counts the lines of a file of seeds in clear, and looks whether each could be taken in. The error names
// the line that is wrong, and nothing of what stands there.
func CheckClearSeeds(file []byte) (int, error) {
	seeds, err := parseClearSeeds(file)
	wipe(seeds)
	return len(seeds), err
}

// parseClearSeeds reads the whole file. No two lines may have the same device, or seeds that make the same MACs.
func parseClearSeeds(file []byte) (seeds []clearSeed, err error) {
	defer func() {
		if err != nil {
			wipe(seeds)
			seeds = nil
		}
	}()
	devices, fingerprints := map[string]int{}, map[[sha256.Size]byte]int{}
	for line := range bytes.Lines(file) {
		n := len(seeds) + 1
		if n > MaxClearSeeds {
			return seeds, badSeeds("the file has more than %d lines: send several files", MaxClearSeeds)
		}
		c, wrong := parseClearSeed(line)
		seeds = append(seeds, c)
		if wrong != "" {
			return seeds, badSeeds("line %d: %s", n, wrong)
		}
		same := sha256.Sum256(bytes.TrimRight(c.seed, "\x00")) // HMAC pads with zeros, so these make no difference
		if before := max(devices[c.device], fingerprints[same]); before > 0 {
			return seeds, badSeeds("line %d has the device or the seed of line %d", n, before)
		}
		devices[c.device], fingerprints[same] = n, n
	}
	if len(seeds) == 0 {
		return seeds, badSeeds("the file is empty")
	}
	return seeds, nil
}

func badSeeds(format string, args ...any) *Error {
	return &Error{Code: CodeSeedInvalid, Detail: fmt.Sprintf(format, args...)}
}

// parseClearSeed reads a line, and says what is wrong with it. It makes no string of the seed, for those cannot be wiped.
func parseClearSeed(line []byte) (c clearSeed, wrong string) {
	const form = `it is not {"device":…,"hash":…,"seed":…}`
	var fields map[string]json.RawMessage
	err := json.Unmarshal(line, &fields)
	defer func() { clear(fields["seed"]) }()
	var hash string
	if err != nil || len(fields) != 3 || json.Unmarshal(fields["device"], &c.device) != nil || json.Unmarshal(fields["hash"], &hash) != nil {
		return c, form
	}
	if !deviceSerial.MatchString(c.device) {
		return c, "device must be 1 to 24 of A-Z a-z 0-9 . _ -"
	}
	if c.hash, err = seed.ParseHash(hash); err != nil {
		return c, "hash must be SHA1, SHA256 or SHA512"
	}
	digits := fields["seed"]
	if len(digits) < 2 || digits[0] != '"' {
		return c, form
	}
	digits = digits[1 : len(digits)-1]
	c.seed = make([]byte, hex.DecodedLen(len(digits)))
	if _, err = hex.Decode(c.seed, digits); err != nil || len(digits)%2 != 0 {
		return c, "seed must be hexadecimal"
	}
	return c, c.unsuitable()
}

// unsuitable says why the HSM would not take the seed; "" if it will. See Import for the lengths.
func (c clearSeed) unsuitable() string {
	const longest = 64
	shortest := map[seed.Hash]int{seed.SHA1: 20, seed.SHA256: 32, seed.SHA512: 64}[c.hash]
	switch {
	case len(c.seed) < shortest || len(c.seed) > longest:
		return fmt.Sprintf("a seed for %s has %d to %d bytes", c.hash, shortest, longest)
	case len(bytes.TrimRight(c.seed, "\x00")) == 0:
		return "the seed is all zeros"
	}
	return ""
}
