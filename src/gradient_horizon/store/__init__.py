"""A sweep's files: datasets, records of jobs, checkpoints, checksums and locks."""
