package main

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"ramzban/hsm"
	"ramzban/keyservice/seed"
)

// transcript is the record of one ceremony. What is signed are the bytes of its file.
type transcript struct {
	Ceremony int               `json:"ramzban_ceremony"` // the version of this form: 1
	Plan     transcriptPlan    `json:"plan"`
	Began    time.Time         `json:"began"`
	Ended    time.Time         `json:"ended"` // when everything but this was done
	Officers []string          `json:"officers"`
	Module   hsm.ModuleInfo    `json:"module"`
	Token    hsm.TokenInfo     `json:"token"`
	Keys     []transcriptKey   `json:"keys"`             // of this ceremony
	Before   []transcriptKey   `json:"before"`           // of earlier ones
	Answers  transcriptAnswers `json:"known_answers"`    // of all of them
	SignedBy string            `json:"signed_by"`        // the audit key
	Public   string            `json:"audit_public_key"` // PEM
}

type transcriptPlan struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

type transcriptAnswers struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

type transcriptKey struct {
	Label      string              `json:"label"`
	Version    uint32              `json:"version"`
	Object     string              `json:"object"` // its CKA_LABEL
	Origin     hsm.Origin          `json:"origin"`
	KCV        string              `json:"kcv"`
	Components []transcriptShare   `json:"components,omitempty"`
	Public     []byte              `json:"public_key,omitempty"` // DER
	Attributes []hsm.ReadAttribute `json:"attributes"`           // as read back
}

type transcriptShare struct {
	Custodian string `json:"custodian"`
	KCV       string `json:"kcv"`
}

// published is what a ceremony leaves outside the HSM.
type published struct{ transcript, signature, public, answers []byte }

// publishable makes the files of a ceremony.
func (p Plan) publishable(began time.Time, record hsm.CeremonyRecord, sign func([]byte) (seed.Signature, error)) (published, error) {
	answers, err := json.MarshalIndent(record.KnownAnswers, "", "  ")
	if err != nil {
		return published{}, err
	}
	answers = append(answers, '\n')
	audit, err := newestAudit(record)
	if err != nil {
		return published{}, err
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: audit.Public})
	t := transcript{
		Ceremony: 1, Plan: transcriptPlan{p.path, hex.EncodeToString(p.sha256[:])},
		Began: began.UTC().Truncate(time.Millisecond), Ended: time.Now().UTC().Truncate(time.Millisecond),
		Officers: p.Officers, Module: record.Module, Token: record.Token,
		Keys: p.transcriptKeys(record.Keys), Before: p.transcriptKeys(record.Before),
		Answers: transcriptAnswers{p.Output.KnownAnswers, sha256Hex(answers)}, SignedBy: audit.Key.String(), Public: string(public),
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return published{}, err
	}
	text = append(text, '\n')
	signature, err := signTranscript(text, audit, sign)
	return published{text, signature, public, answers}, err
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func newestAudit(record hsm.CeremonyRecord) (newest hsm.CeremonyKey, err error) {
	for _, keys := range [][]hsm.CeremonyKey{record.Before, record.Keys} {
		for _, k := range keys {
			if k.Key.Label == "audit" && k.Key.Version > newest.Key.Version {
				newest = k
			}
		}
	}
	if newest.Key.Version == 0 {
		return newest, errors.New("there is no audit key to sign the transcript with")
	}
	return newest, nil
}

// signTranscript signs, and checks the signature as whoever reads the transcript will.
func signTranscript(text []byte, audit hsm.CeremonyKey, sign func([]byte) (seed.Signature, error)) ([]byte, error) {
	signature, err := sign(text)
	if err != nil {
		return nil, fmt.Errorf("sign the transcript: %w", err)
	}
	public, err := x509.ParsePKIXPublicKey(audit.Public)
	if err != nil {
		return nil, fmt.Errorf("sign the transcript: %w", err)
	}
	key, ok := public.(*ecdsa.PublicKey)
	digest := sha256.Sum256(text)
	if !ok || signature.Key != audit.Key || !ecdsa.VerifyASN1(key, digest[:], signature.DER) {
		return nil, fmt.Errorf("sign the transcript: what %s signed does not verify", audit.Key)
	}
	return signature.DER, nil
}

func (p Plan) transcriptKeys(keys []hsm.CeremonyKey) []transcriptKey {
	out := []transcriptKey{}
	for _, k := range keys {
		t := transcriptKey{Label: k.Key.Label, Version: k.Key.Version, Object: k.Key.String(), Origin: k.Origin,
			KCV: KeyCheckValue(k.KCV).String(), Public: k.Public, Attributes: k.Attributes}
		for _, c := range p.componentsOf(k.Key) {
			t.Components = append(t.Components, transcriptShare{c.Custodian, c.KCV.String()})
		}
		out = append(out, t)
	}
	return out
}

func (p Plan) componentsOf(ref seed.KeyRef) []PlanComponent {
	for _, k := range p.Keys {
		if k.Label == ref.Label && k.Version == ref.Version {
			return k.Components
		}
	}
	return nil
}
