"""Params files that come with this package, for folders that are no checkout."""

from pathlib import Path

FOLDER = "params"
# In a wheel (setup.py copies them there), in a checkout.
ROOTS = (Path(__file__).parent / "shipped", Path(__file__).parents[1])


def shipped(path: Path) -> Path:
    """Return `path` where it exists, else the file of that name that came with the package.

    Only relative paths below params/ have a second place: `params/pocket.yaml` means the same file
    in any folder, and a file of that name in the current folder comes first.
    """
    if path.is_absolute() or path.parts[:1] != (FOLDER,) or path.exists():
        return path
    return next((root / path for root in ROOTS if (root / path).exists()), path)


def shipped_folder() -> Path:
    """Return params/ as it came with the package."""
    return next(root / FOLDER for root in ROOTS if (root / FOLDER).is_dir())


def shipped_names(folder: Path) -> list[str]:
    """Return the names of the YAML files of `folder`, and of those that came with the package."""
    places = {folder, shipped(folder)}
    found = {file.name for place in places if place.is_dir() for file in place.glob("*.yaml")}
    return sorted(found)
