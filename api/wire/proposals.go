package wire

import "time"

// Signed is a document of dual control with its detached signature.
type Signed struct {
	Document    string `json:"document" minLength:"1" maxLength:"4096" doc:"The exact text that was signed: a proposal or an approval, one line of JSON"`
	Signature   []byte `json:"signature" minLength:"1" maxLength:"2048" doc:"Base64 of the signature: ECDSA (P-256, P-384; ASN.1) or RSA (PKCS #1 v1.5), both with SHA-256, or Ed25519"`
	Certificate []byte `json:"certificate" minLength:"1" maxLength:"8192" doc:"Base64 of the signer's certificate (DER), those of intermediate authorities after it"`
}

// Proposal is what an officer wants to be done, and what became of it.
type Proposal struct {
	ID         string     `json:"id" doc:"The first 16 bytes of the SHA-256 of the proposal's document, in hexadecimal" example:"5d0f6f3c1b7e49a2b8a1c2d3e4f50617"`
	Status     string     `json:"status" enum:"waiting,approved,running,done,failed,withdrawn,expired" doc:"waiting for another officer's approval; approved and running: being carried out; failed: was not carried out and will not be"`
	Action     string     `json:"action" doc:"What is to be done" example:"officers.change"`
	Proposer   string     `json:"proposer" doc:"Who proposed it" example:"officer-1"`
	Approver   string     `json:"approver,omitempty" doc:"Who approved it" example:"officer-2"`
	MadeAt     time.Time  `json:"made_at" doc:"When the service took it in"`
	ExpiresAt  time.Time  `json:"expires_at" doc:"It is not begun from this moment on"`
	ApprovedAt *time.Time `json:"approved_at,omitempty" doc:"When the service took the approval in"`
	EndedAt    *time.Time `json:"ended_at,omitempty" doc:"When it was done, failed or was withdrawn"`
	Result     string     `json:"result,omitempty" doc:"What came of it, for people"`
	Proposal   Signed     `json:"proposal" doc:"The signed proposal"`
	Approval   *Signed    `json:"approval,omitempty" doc:"The signed approval"`
}

// ProposalsAnswer is what there is to agree on (GET /v1/proposals).
type ProposalsAnswer struct {
	Caller       string     `json:"caller" doc:"Who asks, by the name that the caller's documents must hold" example:"officer-1"`
	Installation string     `json:"installation" doc:"What proposals for this installation must name" example:"5d0f6f3c1b7e49a2"`
	Officers     []string   `json:"officers" doc:"Who may propose and approve, by name" example:"[\"officer-1\",\"officer-2\"]"`
	Proposals    []Proposal `json:"proposals" doc:"The newest first, at most 100; none that ended and expired more than 30 days ago, which the log tells of"`
	Damaged      []string   `json:"damaged" doc:"Proposals whose rows were changed outside the service, by id; empty where no id is left. They are alarmed, and not carried out" example:"[]"`
}
