package wire

// ClearSeed is a line of a file of seeds in clear: what some makers of hardware tokens deliver.
type ClearSeed struct {
	Device string `json:"device" pattern:"^[A-Za-z0-9._-]{1,24}$" doc:"The serial that its maker printed on it" example:"GX-000123"`
	Hash   string `json:"hash" enum:"SHA1,SHA256,SHA512" doc:"The hash of its HMAC"`
	Seed   string `json:"seed" pattern:"^[0-9A-Fa-f]+$" minLength:"40" maxLength:"128" doc:"Hexadecimal: 20 to 64 bytes for SHA1, 32 to 64 for SHA256, 64 for SHA512" example:"3132333435363738393031323334353637383930"`
}

// SeedImportAnswer holds the seeds of the file, in its order, as activation takes them.
type SeedImportAnswer struct {
	Seeds []ImportedSeed `json:"seeds" doc:"In the order of the lines"`
}

// ImportedSeed is what a hardware token is activated with.
type ImportedSeed struct {
	Device          string `json:"device" doc:"The serial that its maker printed on it" example:"GX-000123"`
	Hash            string `json:"hash" enum:"SHA1,SHA256,SHA512" doc:"The hash of its HMAC, which the token's profile must have"`
	MakerSeed       []byte `json:"maker_seed,omitempty" doc:"For the token's activation: the seed, which only the HSM can read. It differs each time the file is sent"`
	DeviceKeySHA256 string `json:"device_key_sha256,omitempty" doc:"For the token's issue: pins it to this maker_seed" example:"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"`
	Refused         string `json:"refused,omitempty" enum:"seed_in_use" doc:"Why there is none: a token has this seed"`
}
