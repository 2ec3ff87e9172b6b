from typing import Any

# The figures are typed where they are written; here each is whatever matplotlib makes of it.
def __getattr__(name: str) -> Any: ...
