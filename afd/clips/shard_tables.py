"""The tables of shards and packs, by columns and without torch: whose clips they are."""

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pyarrow import parquet

from afd.store import StoreError

TABLE = "clips.parquet"


def read_columns(folder: Path, *names: str) -> list[dict[str, Any]]:
    """The rows of a shard's table: those of `names` that it has.

    Raises StoreError for a table that cannot be read: it is restored first, for nobody knows which
    of its clips were paid.
    """
    try:
        with parquet.ParquetFile(folder / TABLE) as file:
            known = cast("list[str]", file.schema_arrow.names)
            columns = [name for name in names if name in known]
            return cast("list[dict[str, Any]]", file.read(columns=columns).to_pylist())
    except (OSError, ValueError, pa.ArrowException) as error:  # pyright: ignore[reportUnknownVariableType]
        raise StoreError(
            f"{folder}: its table cannot be read ({error}); restore it with `dvc pull`: nobody "
            "knows which of its clips were paid"
        ) from None
