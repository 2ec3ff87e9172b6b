"""Analysis of a dataset: outcomes, confidence intervals, the theory that applies, and tables."""
