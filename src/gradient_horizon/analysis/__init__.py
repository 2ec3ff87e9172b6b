"""A dataset in, numbers and tables out: outcomes, confidence intervals, and which law applies."""
