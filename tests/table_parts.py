"""What a test asks of a table."""

from rich.table import Table


def rows_of(table: Table | None) -> list[list[str]]:
    """The cells, row by row."""
    assert table is not None
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]
