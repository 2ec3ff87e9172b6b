"""The files of a sweep: datasets, job records and their heartbeat, progress, checkpoints, checksums and locks."""
