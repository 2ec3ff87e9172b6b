from typing import Any

# Figures are typed in their own modules; here, each is whatever matplotlib makes of it.
def __getattr__(name: str) -> Any: ...
