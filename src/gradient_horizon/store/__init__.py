"""The files of a sweep: datasets, job records, checkpoints, checksums and locks."""
