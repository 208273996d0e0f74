package faultmodule

import "strings"

// Function is a function of PKCS#11, in the order of CK_FUNCTION_LIST (PKCS#11 2.40, section 3.6). The module refuses a
// control file that lists them otherwise than its own source does.
type Function int

// The functions.
const (
	Initialize Function = iota
	Finalize
	GetInfo
	GetFunctionList
	GetSlotList
	GetSlotInfo
	GetTokenInfo
	GetMechanismList
	GetMechanismInfo
	InitToken
	InitPIN
	SetPIN
	OpenSession
	CloseSession
	CloseAllSessions
	GetSessionInfo
	GetOperationState
	SetOperationState
	Login
	Logout
	CreateObject
	CopyObject
	DestroyObject
	GetObjectSize
	GetAttributeValue
	SetAttributeValue
	FindObjectsInit
	FindObjects
	FindObjectsFinal
	EncryptInit
	Encrypt
	EncryptUpdate
	EncryptFinal
	DecryptInit
	Decrypt
	DecryptUpdate
	DecryptFinal
	DigestInit
	Digest
	DigestUpdate
	DigestKey
	DigestFinal
	SignInit
	Sign
	SignUpdate
	SignFinal
	SignRecoverInit
	SignRecover
	VerifyInit
	Verify
	VerifyUpdate
	VerifyFinal
	VerifyRecoverInit
	VerifyRecover
	DigestEncryptUpdate
	DecryptDigestUpdate
	SignEncryptUpdate
	DecryptVerifyUpdate
	GenerateKey
	GenerateKeyPair
	WrapKey
	UnwrapKey
	DeriveKey
	SeedRandom
	GenerateRandom
	GetFunctionStatus
	CancelFunction
	WaitForSlotEvent
	functionCount
)

var functionNames = strings.Fields("Initialize Finalize GetInfo GetFunctionList GetSlotList GetSlotInfo GetTokenInfo " +
	"GetMechanismList GetMechanismInfo InitToken InitPIN SetPIN OpenSession CloseSession CloseAllSessions GetSessionInfo " +
	"GetOperationState SetOperationState Login Logout CreateObject CopyObject DestroyObject GetObjectSize " +
	"GetAttributeValue SetAttributeValue FindObjectsInit FindObjects FindObjectsFinal EncryptInit Encrypt " +
	"EncryptUpdate EncryptFinal DecryptInit Decrypt DecryptUpdate DecryptFinal DigestInit Digest DigestUpdate " +
	"DigestKey DigestFinal SignInit Sign SignUpdate SignFinal SignRecoverInit SignRecover VerifyInit Verify " +
	"VerifyUpdate VerifyFinal VerifyRecoverInit VerifyRecover DigestEncryptUpdate DecryptDigestUpdate " +
	"SignEncryptUpdate DecryptVerifyUpdate GenerateKey GenerateKeyPair WrapKey UnwrapKey DeriveKey SeedRandom " +
	"GenerateRandom GetFunctionStatus CancelFunction WaitForSlotEvent")

// String returns the function's name, as "C_Sign".
func (f Function) String() string { return "C_" + functionNames[f] }
