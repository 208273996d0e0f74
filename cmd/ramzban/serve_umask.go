package main

import "golang.org/x/sys/unix"

// keepFilesPrivate makes every file that this process creates private to its user, whoever starts it: the database
// engine asks for mode 0666.
func keepFilesPrivate() { unix.Umask(0o077) }
