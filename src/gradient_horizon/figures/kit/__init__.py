"""What figures share: style, facets, quantiles, colours by weight scale."""
