package main

import (
	"time"

	"ramzban/keyservice"
	"ramzban/keyservice/otp"
	"ramzban/keyservice/seed"
)

// Config is the whole configuration of `ramzban serve`: one YAML file, read strictly, checked once, passed down.
// `ramzban config example` prints it with a comment for every key.
type Config struct {
	// Node is this server's name in audit entries and in the database: 1 to 63 small letters, digits and hyphens. Every
	// server of a bank has its own.
	Node string `yaml:"node"`
	// API is the listener the bank's systems call, always over mutual TLS.
	API APIConfig `yaml:"api"`
	// Operator is the listener for health, readiness and metrics.
	Operator OperatorConfig `yaml:"operator"`
	// HSM says which module and which of its tokens to use.
	HSM HSMConfig `yaml:"hsm"`
	// Store says which engine keeps the database, and where.
	Store StoreConfig `yaml:"store"`
	// Audit says how the audit log proves itself.
	Audit AuditConfig `yaml:"audit"`
	// Profiles are the kinds of token that can be issued, by name, besides the shipped ones.
	Profiles map[string]ProfileConfig `yaml:"profiles"`
	// Uses are what a token's passwords may be good for; a token is connected to some of them.
	Uses []string `yaml:"uses"`
	// Guessing bounds how often a customer's passwords may be guessed, where their profile does not say it.
	Guessing GuessingConfig `yaml:"guessing"`
	// Clients maps certificates to named clients and persons and their roles. Who is not here may do nothing.
	Clients []ClientConfig `yaml:"clients"`
	// Officers are the names of the first security officers, clients with that role, of whom two must agree on what none may
	// do alone; with none named, nothing can be proposed. Looked at by a database that has no officers yet, and never again.
	Officers []string `yaml:"officers,omitempty"`
	// Limits bound how often one client may ask.
	Limits LimitsConfig `yaml:"limits"`
	// Log says what is logged, and how.
	Log LogConfig `yaml:"log"`
	// Timeouts bound how long things may take.
	Timeouts TimeoutsConfig `yaml:"timeouts"`
}

// APIConfig is the API listener.
type APIConfig struct {
	// Listen is the address and port of the API.
	Listen string `yaml:"listen"`
	// Certificate is the server's certificate with its chain, a PEM file.
	Certificate string `yaml:"certificate"`
	// Key is the private key of Certificate, a PEM file only the service's user can read.
	Key string `yaml:"key"`
	// ClientCA holds the CA certificates that client certificates must come from, a PEM file.
	ClientCA string `yaml:"client_ca"`
	// ClientCRL holds the current revocation list of each of those CAs, a PEM or DER file that is read again when it
	// changes; without it, certificates are good until they expire.
	ClientCRL string `yaml:"client_crl,omitempty"`
}

// OperatorConfig is the operator listener: /healthz, /readyz and /metrics.
type OperatorConfig struct {
	// Listen is its address and port. Without TLS it must be a loopback address.
	Listen string `yaml:"listen"`
	// TLS asks for the API's certificate, and for client certificates with the operator role.
	TLS bool `yaml:"tls"`
}

// HSMConfig is one token of one PKCS#11 module.
type HSMConfig struct {
	// Module is the vendor's PKCS#11 library, a shared object.
	Module string `yaml:"module"`
	// TokenLabel is the label of the PKCS#11 token that holds the keys. Slots are never chosen by number: those change.
	TokenLabel string `yaml:"token_label"`
	// PINFile holds the user PIN on one line; only the service's user may read it.
	PINFile string `yaml:"pin_file"`
	// PINEnv names the environment variable that holds the user PIN; if given, PINFile is not read.
	PINEnv string `yaml:"pin_env,omitempty"`
	// Profile names what is special about this HSM product.
	Profile string `yaml:"profile"`
	// Sessions is how many sessions are used at once.
	Sessions int `yaml:"sessions"`
	// OwnerSessions is how many further sessions own the seeds in use.
	OwnerSessions int `yaml:"owner_sessions"`
	// SeedCache is how many seeds are kept unwrapped inside the HSM, ready for the next password.
	SeedCache int `yaml:"seed_cache"`
	// KnownAnswerFile holds the known answers of the key ceremony, which prove at every start that the keys are the right ones.
	// The running service reads it again when it looks for keys that were made since. The answer of a key that it destroyed
	// may stay: the HSM holds a mark of it.
	KnownAnswerFile string `yaml:"known_answer_file"`
	// Environment variables that the module wants, set before it is loaded.
	Environment map[string]string `yaml:"environment,omitempty"`
}

// StoreConfig is the database: exactly one engine.
type StoreConfig struct {
	// Badger is the embedded engine, for one node.
	Badger *BadgerConfig `yaml:"badger,omitempty"`
	// Postgres is the cluster engine: a PostgreSQL database that several nodes share.
	Postgres *PostgresConfig `yaml:"postgres,omitempty"`
}

// BadgerConfig is the embedded engine's database.
type BadgerConfig struct {
	// Dir is the database's folder.
	Dir string `yaml:"dir"`
	// Reserve is how much space of that disk is left free; below it changes are refused.
	Reserve Size `yaml:"reserve"`
}

// PostgresConfig is one node's way to the database that the nodes share.
type PostgresConfig struct {
	// DSNFile holds, on one line, how to reach the database and as whom; only the service's user may read it.
	DSNFile string `yaml:"dsn_file"`
	// DSNEnv names the environment variable that holds it; if given, DSNFile is not read.
	DSNEnv string `yaml:"dsn_env,omitempty"`
	// Connections is how many connections are used for reading, besides one for writing.
	Connections int `yaml:"connections"`
	// StatementTimeout bounds each exchange with the database; waiting for COMMIT is never cut short.
	StatementTimeout Duration `yaml:"statement_timeout"`
}

// AuditConfig is how the audit log proves itself.
type AuditConfig struct {
	// CheckpointInterval is how often a checkpoint is signed, as long as anything is decided.
	CheckpointInterval Duration `yaml:"checkpoint_interval"`
	// Witness keeps the checkpoints where whoever holds the database does not reach them; none if it is left out.
	Witness *WitnessConfig `yaml:"witness,omitempty"`
	// Anchor is a file with a checkpoint of this database, kept elsewhere since: with an older database the service does
	// not start.
	Anchor string `yaml:"anchor,omitempty"`
}

// WitnessConfig is a directory or another host.
type WitnessConfig struct {
	// Dir is a folder, on a disk of another machine.
	Dir string `yaml:"dir,omitempty"`
	// URL is the https address of another host, where `ramzban witness` answers.
	URL string `yaml:"url,omitempty"`
	// CA holds the CA certificates that the host's certificate must come from, a PEM file.
	CA string `yaml:"ca,omitempty"`
	// Certificate is this node's client certificate, a PEM file, if the host asks for one.
	Certificate string `yaml:"certificate,omitempty"`
	// Key is its private key, a PEM file only the service's user can read.
	Key string `yaml:"key,omitempty"`
	// Optional lets the service start when the witness's host does not answer. What it holds is compared when it is back.
	Optional bool `yaml:"optional,omitempty"`
}

// ProfileConfig is a keyservice.Profile as written in the file.
type ProfileConfig struct {
	// Type is totp (RFC 6238), hotp (RFC 4226), ocra (RFC 6287) or sms.
	Type otp.Type `yaml:"type"`
	// Hash is SHA1, SHA256 or SHA512; of ocra it is the suite's.
	Hash HashName `yaml:"hash,omitempty"`
	// Digits is the length of a password: 6 to 8; of ocra it is the suite's.
	Digits int `yaml:"digits,omitempty"`
	// Suite says how a password is made and of what (RFC 6287 section 6); ocra only.
	Suite string `yaml:"suite,omitempty"`
	// PINDigits is the length of the PIN that the customer types for each password; ocra with P in its suite only.
	PINDigits int `yaml:"pin_digits,omitempty"`
	// Signs says that every password is made for one transaction and good for no other; ocra only.
	Signs bool `yaml:"signs,omitempty"`
	// AllowUnbound lets a password that is bound to no transaction be good for one.
	AllowUnbound bool `yaml:"allow_unbound,omitempty"`
	// Period is the length of a time step; totp only, of ocra it is the suite's.
	Period Duration `yaml:"period,omitempty"`
	// Validity is how long a password is good: from the beginning of its time step, or of sms from when it was asked for.
	Validity Duration `yaml:"validity,omitempty"`
	// DriftSearch is how far either side of its learnt drift a phone's clock is looked for; time steps only.
	DriftSearch Duration `yaml:"drift_search,omitempty"`
	// DriftBound is the most a phone's clock may ever be off; time steps only.
	DriftBound Duration `yaml:"drift_bound,omitempty"`
	// LookAhead is how many counters beyond the next one are tried; counters only.
	LookAhead uint64 `yaml:"look_ahead,omitempty"`
	// ResyncAhead is how many counters are searched for two consecutive passwords; counters only.
	ResyncAhead uint64 `yaml:"resync_ahead,omitempty"`
	// Guessing bounds guessing at passwords of this profile; without it Config.Guessing does.
	Guessing *GuessingConfig `yaml:"guessing,omitempty"`
}

// Policy returns the profile's policy as the key service takes it: what a suite says of passwords need not be said twice.
func (p ProfileConfig) Policy() otp.Policy {
	policy := otp.Policy{
		Type: p.Type, Hash: seed.Hash(p.Hash), Digits: p.Digits,
		Period: time.Duration(p.Period), Validity: time.Duration(p.Validity),
		DriftSearch: time.Duration(p.DriftSearch), DriftBound: time.Duration(p.DriftBound),
		LookAhead: p.LookAhead, ResyncAhead: p.ResyncAhead,
		Suite: p.Suite, PINDigits: p.PINDigits, Signs: p.Signs, AllowUnbound: p.AllowUnbound,
	}
	if suite, err := otp.ParseSuite(p.Suite); p.Type == otp.OCRA && err == nil {
		policy.Hash, policy.Digits, policy.Period = suite.Hash, suite.Digits, suite.TimeStep
	}
	return policy
}

// GuessingConfig is one budget per customer and use, over all of the customer's tokens.
type GuessingConfig struct {
	// FreeMisses is how many wrong passwords in a row begin a delay: those before it cause none.
	FreeMisses int `yaml:"free_misses"`
	// BaseDelay is the first delay; it doubles with each further wrong password.
	BaseDelay Duration `yaml:"base_delay"`
	// MaxDelay is the longest delay.
	MaxDelay Duration `yaml:"max_delay"`
	// WindowDays is the length of the window in which wrong passwords are counted, in days.
	WindowDays int `yaml:"window_days"`
	// MaxMisses is how many wrong passwords within the window lock the customer's use; at most 100 (NIST SP 800-63B).
	MaxMisses int `yaml:"max_misses"`
}

// Limits returns the budget as the key service takes it.
func (g GuessingConfig) Limits() keyservice.GuessLimits {
	return keyservice.GuessLimits{
		FreeMisses: g.FreeMisses, BaseDelay: time.Duration(g.BaseDelay), MaxDelay: time.Duration(g.MaxDelay),
		WindowDays: g.WindowDays, MaxMisses: g.MaxMisses,
	}
}

// ClientConfig is one client system or person.
type ClientConfig struct {
	// Name is who it is in audit entries.
	Name string `yaml:"name"`
	// Certificates are the names in its certificates: the URI SAN if there is one, else the common name.
	Certificates []string `yaml:"certificates"`
	// Roles are issuer, activator, courier, verifier, officer, auditor, operator.
	Roles []string `yaml:"roles"`
}

// LimitsConfig bounds how often one client may ask. What is above is answered 429 and stands in no audit entry.
type LimitsConfig struct {
	// RequestsPerSecond is how many requests one client may make, on average.
	RequestsPerSecond int `yaml:"requests_per_second"`
	// RequestsAtOnce is how many it may make at once.
	RequestsAtOnce int `yaml:"requests_at_once"`
	// DenialsPerSecond is how many of them may be denied, on average: each denial is kept in the audit log.
	DenialsPerSecond int `yaml:"denials_per_second"`
	// DenialsAtOnce is how many may be denied at once.
	DenialsAtOnce int `yaml:"denials_at_once"`
	// FailedSubjectsPerHour is for how many different customers one client may fail within an hour.
	FailedSubjectsPerHour int `yaml:"failed_subjects_per_hour"`
	// RenewalsPerSecond is how many tokens are brought to new master keys while these are rotated, on all nodes together;
	// fewer while the database is slow.
	RenewalsPerSecond int `yaml:"renewals_per_second"`
}

// LogConfig is the log, written to standard output.
type LogConfig struct {
	// Level is debug, info, warn or error.
	Level string `yaml:"level"`
	// Format is json or text.
	Format string `yaml:"format"`
}

// TimeoutsConfig bounds how long things may take.
type TimeoutsConfig struct {
	// Request is how long one request may take.
	Request Duration `yaml:"request"`
	// Comparison is how long one comparison of the audit log with the database may take: it reads all of both.
	Comparison Duration `yaml:"comparison"`
	// Shutdown is how long requests under way are waited for when the service is told to stop.
	Shutdown Duration `yaml:"shutdown"`
}
