package authz

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Who may do what, written out a second time: a change of the grants must be made here too.
func TestTheWholeMatrix(t *testing.T) {
	matrix := map[Action][]Role{
		IssueToken: {Issuer}, RenewCode: {Issuer}, ReadToken: {Issuer}, SuspendToken: {Issuer}, ResumeToken: {Issuer}, DeactivateToken: {Issuer},
		CollectCode: {Courier}, ActivateToken: {Activator}, ConfirmToken: {Activator}, VerifyOTP: {Verifier},
		SetUses: {Issuer}, SetPIN: {Issuer}, SetMobile: {Issuer}, RemoveToken: {Activator}, UnlockToken: {Issuer}, EndSubject: {Issuer}, ResyncToken: {Activator}, ReadImportKey: {Activator},
		AskChallenge: {Verifier}, ReadAudit: {Auditor}, CompareAudit: {Auditor}, ReadMetrics: {Operator}, TakeBackup: {Operator},
		MakeProposal: {Officer}, ApproveProposal: {Officer}, EndProposal: {Officer}, ReadProposals: {Officer},
		ReadKeys: {Officer}, ReadRotations: {Officer}, PauseRotation: {Officer}, ResumeRotation: {Officer}, FeedSubjects: {Officer},
		ImportClearSeeds: {Officer},
	}
	granted := 0
	for _, actions := range grants {
		granted += len(actions)
	}
	require.Equal(t, len(matrix), granted, "every grant stands in the matrix")
	for action, may := range matrix {
		for _, r := range Roles() {
			err := Check(Caller{Name: "c", Roles: []Role{r}}, action)
			require.Equal(t, r == may[0], err == nil, "%s %s", r, action)
		}
	}
}

func TestDefaultDeny(t *testing.T) {
	for _, c := range []Caller{{}, {Name: "c"}, {Roles: []Role{Verifier}}, {Name: "c", Roles: []Role{"root", ""}}} {
		require.ErrorIs(t, Check(c, VerifyOTP), ErrDenied)
	}
	require.ErrorIs(t, Check(Caller{Name: "c", Roles: Roles()}, "otp.unheard-of"), ErrDenied)
}

// No one role is enough to issue a token, read its code and activate it.
func TestNoRoleReachesAroundTheEnrolment(t *testing.T) {
	for _, r := range Roles() {
		c, can := Caller{Name: "c", Roles: []Role{r}}, 0
		for _, a := range []Action{IssueToken, CollectCode, ActivateToken, VerifyOTP} {
			if Check(c, a) == nil {
				can++
			}
		}
		require.LessOrEqual(t, can, 1, "%s", r)
	}
}

// No one role is enough to ask for an SMS password and read it.
func TestNoRoleAsksForAPasswordAndReadsIt(t *testing.T) {
	for _, r := range Roles() {
		c := Caller{Name: "c", Roles: []Role{r}}
		require.False(t, Check(c, AskChallenge) == nil && Check(c, CollectCode) == nil, "%s", r)
	}
}

func TestDirectory(t *testing.T) {
	d, err := NewDirectory([]Client{
		{Name: "branch", Certificates: []string{"branch", "spiffe://bank/branch"}, Roles: []Role{Issuer}},
		{Name: "core", Certificates: []string{"core"}, Roles: []Role{Verifier}},
	})
	require.NoError(t, err)
	for _, certificate := range []string{"branch", "spiffe://bank/branch"} {
		c, ok := d.Lookup(certificate)
		require.True(t, ok)
		require.Equal(t, "branch", c.Name, "a renewed certificate is the same client")
	}
	c, ok := d.Named("core")
	require.True(t, ok)
	require.Equal(t, []Role{Verifier}, c.Roles)
	_, ok = d.Named("spiffe://bank/branch")
	require.False(t, ok)
	for _, certificate := range []string{"", "Branch", "branch ", "issuer"} {
		_, ok := d.Lookup(certificate)
		require.False(t, ok, "%q", certificate)
	}
}

func TestBadDirectories(t *testing.T) {
	ok := Client{Name: "a", Certificates: []string{"a"}, Roles: []Role{Issuer}}
	for name, clients := range map[string][]Client{
		"no name":             {{Certificates: []string{"x"}}},
		"a name twice":        {ok, {Name: "a", Certificates: []string{"b"}}},
		"but for capitals":    {ok, {Name: "A", Certificates: []string{"b"}}},
		"a space before":      {{Name: " a", Certificates: []string{"b"}}},
		"a space after":       {{Name: "a ", Certificates: []string{"b"}}},
		"not to be seen":      {{Name: "a\u200bb", Certificates: []string{"b"}}},
		"a certificate twice": {ok, {Name: "b", Certificates: []string{"a"}}},
		"no certificate":      {{Name: "b"}},
		"empty certificate":   {{Name: "b", Certificates: []string{""}}},
		"unknown role":        {{Name: "b", Certificates: []string{"b"}, Roles: []Role{"root"}}},
	} {
		_, err := NewDirectory(clients)
		require.Error(t, err, name)
	}
}
