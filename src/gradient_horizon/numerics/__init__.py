"""Arithmetic that does not overflow, programs that compile once, and the package's use of LAPACK, keys and XLA."""
