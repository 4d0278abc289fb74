"""Lines and answers <-> the Arrow tables in which Ray Data moves them: a pickle in each row."""

import pickle
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

_COLUMN = "pickle"


def table_of(items: Iterable[object]) -> pa.Table:
    """Return a table with a row for each item."""
    column = pa.array([pickle.dumps(item) for item in items], pa.binary())
    return pa.table({_COLUMN: column})


def items_of(table: pa.Table) -> list[Any]:
    """Return the items of a table's rows."""
    return [pickle.loads(row) for row in table.column(_COLUMN).to_pylist()]
