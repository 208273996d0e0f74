package softhsm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAMissingModuleSaysHowToInstallIt(t *testing.T) {
	t.Setenv(ModuleVariable, "")
	defer func(paths []string) { modulePaths = paths }(modulePaths)
	modulePaths = []string{"/nowhere/libsofthsm2.so"}
	_, err := FindModule()
	require.ErrorContains(t, err, "apt install softhsm2")
	require.ErrorContains(t, err, ModuleVariable)
}
