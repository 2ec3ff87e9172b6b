"""Arithmetic that neither overflows nor recompiles, and LAPACK, keys and XLA as the package uses them."""
