"""Files of a campaign's rounds: `rounds/000.json` and so on, the artifacts of a round by role."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from afd.artifacts import ArtifactRef
from afd.store import StoreError
from flows.small_files import SmallFiles

ROUND = TypeAdapter(dict[str, ArtifactRef])
_ROUNDS = SmallFiles(ROUND.validate_json)


def read_round(file: Path) -> dict[str, ArtifactRef] | None:
    """Return the artifacts of a round, by role; None before it is finished.

    Raises StoreError for a damaged file.
    """
    try:
        return dict(_ROUNDS.read(file))
    except FileNotFoundError:
        return None
    except ValidationError:
        raise StoreError(
            f"{file}: damaged; remove it and run the same command again: it is written anew"
        ) from None


def known_round(file: Path) -> dict[str, ArtifactRef]:
    """Return the artifacts of a round, by role; none for a file that is missing or damaged."""
    try:
        return read_round(file) or {}
    except (OSError, StoreError):
        return {}


def damaged_rounds(folder: Path) -> dict[Path, str]:
    """Return the damaged files of a campaign's rounds, each with its cure."""
    found: dict[Path, str] = {}
    for file in sorted((folder / "rounds").glob("*.json")):
        try:
            read_round(file)
        except StoreError as error:
            found[file] = str(error)
    return found
