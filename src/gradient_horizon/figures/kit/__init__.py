"""Shared parts of the figures: style, facets, quantiles, and colours by weight scale."""
