package wire

// The trailers behind a backup. Without them it was cut.
const (
	BackupDigestTrailer = "Ramzban-Backup-Sha256" // of the file, in hexadecimal
	BackupRowsTrailer   = "Ramzban-Backup-Rows"
)
