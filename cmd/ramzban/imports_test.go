package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "ramzban/"

// mayImport lists which of our packages each of our packages may import. A new package must be added here, and so
// thought about.
var mayImport = map[string][]string{
	"keyservice/seed":                   {},
	"keyservice/otp":                    {"keyservice/seed"},
	"keyservice/authz":                  {},
	"keyservice/authz/approval":         {},
	"keyservice/store":                  {},
	"keyservice/store/group":            {"keyservice/store"},
	"keyservice/store/badgerstore":      {"keyservice/store", "keyservice/store/group"},
	"keyservice/store/pgstore":          {"keyservice/store", "keyservice/store/group"},
	"keyservice/store/pgstore/pgserver": {},
	"keyservice/store/pgstore/pgtest":   {"keyservice/store/pgstore/pgserver"},
	"keyservice/store/pgstore/hatest":   {},
	"keyservice/store/storetest":        {"keyservice/store"},
	"keyservice/store/transfer":         {"keyservice/store"},
	"keyservice/audit":                  {"keyservice/store"},
	"keyservice/backup":                 {"keyservice/seed", "keyservice/store"},
	"keyservice/audit/audittest":        {"keyservice/audit"},
	"keyservice/audit/archive":          {"keyservice/audit", "keyservice/store"},
	"keyservice/witness":                {"keyservice/audit", "keyservice/store"},
	"keyservice":                        {"keyservice/audit", "keyservice/audit/archive", "keyservice/backup", "keyservice/authz", "keyservice/authz/approval", "keyservice/otp", "keyservice/seed", "keyservice/store"},
	"hsm/profile":                       {"keyservice/seed"},
	"hsm":                               {"hsm/profile", "keyservice/seed"},
	"softhsm":                           {"hsm", "hsm/profile", "keyservice/seed"},
	"softhsm/faultmodule":               {},
	"api/wire":                          {},
	"api/client":                        {"api/wire"},
	"api":                               {"api/wire", "keyservice", "keyservice/audit", "keyservice/authz", "keyservice/authz/approval", "keyservice/otp", "keyservice/seed"},
	"cmd/ramzban/failover":              {},
	"cmd/ramzban": {"api", "api/client", "hsm", "hsm/profile", "keyservice", "keyservice/audit", "keyservice/audit/archive", "keyservice/authz", "keyservice/authz/approval",
		"keyservice/otp", "keyservice/seed", "keyservice/store", "keyservice/store/badgerstore", "keyservice/store/pgstore", "keyservice/store/pgstore/pgserver", "keyservice/store/transfer", "keyservice/backup", "keyservice/witness", "softhsm", "api/wire"},
}

// onlyIn lists libraries that one package alone may import, so that it can be replaced.
var onlyIn = map[string]string{
	"github.com/miekg/pkcs11":          "hsm",
	"github.com/ThalesIgnite/crypto11": "hsm",
	"github.com/dgraph-io/badger":      "keyservice/store/badgerstore",
	"github.com/pressly/goose":         "keyservice/store/pgstore",
	"github.com/gofiber/fiber":         "api",
	"github.com/danielgtaylor/huma":    "api",
	"github.com/spf13/cobra":           "cmd/ramzban",
	"github.com/goccy/go-yaml":         "cmd/ramzban",
	"github.com/vbauerster/mpb":        "cmd/ramzban",
	"filippo.io/age":                   "keyservice/backup",
}

// standardOnly are the leaves.
var standardOnly = []string{"keyservice/seed", "api/wire"}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportsRunOneWay(t *testing.T) {
	packages := listPackages(t)
	require.Greater(t, len(packages), 8)
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, known := mayImport[name]
		require.True(t, known, "%s is a new package: say in mayImport what it may import", name)
		for _, i := range p.Imports {
			inner, ours := strings.CutPrefix(i, module)
			if ours {
				require.True(t, slices.Contains(allowed, inner), "%s must not import %s", name, inner)
			}
			library := strings.Contains(i, ".")
			require.False(t, library && slices.Contains(standardOnly, name), "%s imports %s: only the standard library is allowed", name, i)
			for prefix, owner := range onlyIn {
				require.False(t, strings.HasPrefix(i, prefix) && name != owner, "%s must not import %s: only %s may", name, i, owner)
			}
		}
	}
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	list.Dir = "../.."
	out, err := list.Output()
	require.NoError(t, err)
	var packages []listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		require.NoError(t, err)
		packages = append(packages, p)
	}
}
