"""How the signatures of the package are checked while the tests run."""

from beartype import BeartypeConf, beartype

# NumPy's `ArrayLike` counts a float among the complex numbers, as type checkers do.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
