"""Columns of the tables of shards and packs, read without torch."""

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pyarrow import parquet

from afd.store import StoreError

TABLE = "clips.parquet"


def read_columns(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Return the rows of a shard's table, with those columns of `names` that it has.

    Raises StoreError for a table that cannot be read: it must be restored first, since the paid
    clips in it are unknown.
    """
    try:
        with parquet.ParquetFile(folder / TABLE) as file:
            known = cast("list[str]", file.schema_arrow.names)
            columns = [name for name in names if name in known]
            return cast("list[dict[str, Any]]", file.read(columns=columns).to_pylist())
    except (OSError, ValueError, pa.ArrowException) as error:  # pyright: ignore[reportUnknownVariableType]
        raise StoreError(
            f"{folder}: its table cannot be read ({error}); move it aside and "
            "restore it with `dvc pull`: nobody knows which of its clips were paid"
        ) from None
