"""Pins that are closed under every supported platform's metadata, from installed metadata alone.

Wheels are not looked for here: `.ci/resolve` asks the index once a week whether each pin has one.
"""

import functools
import importlib.metadata
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = Path(__file__).resolve().parents[2]
PROJECT_TABLE = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
LOCKS = ("requirements.lock", "requirements-test.lock")
# Requires-Dist of what a CPU environment of Python 3.11.7 does not install: PyPI's torch (the CUDA
# build, where this environment may have the CPU wheel), CUDA, and pins of other Pythons.
FOREIGN: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("foreign_metadata.json").read_text()
)
LINUX = {"sys_platform": "linux", "platform_system": "Linux"}
MACOS = {"sys_platform": "darwin", "platform_system": "Darwin"}
PLATFORMS = {
    "linux-x86_64": LINUX | {"platform_machine": "x86_64"},
    "linux-aarch64": LINUX | {"platform_machine": "aarch64"},
    "macos-arm64": MACOS | {"platform_machine": "arm64"},
}
PYTHONS = ("3.11.0", "3.11.7", "3.12.1", "3.13.0", "3.14.0")
ENVIRONMENTS = [(platform, python) for platform in PLATFORMS for python in PYTHONS]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def environment(platform: str, python: str) -> dict[str, str]:
    return PLATFORMS[platform] | {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_name": "cpython",
        "implementation_version": python,
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "platform_release": "",
        "platform_version": "",
    }


@functools.cache
def pins() -> list[Requirement]:
    lines = [line for lock in LOCKS for line in (PROJECT / lock).read_text().splitlines()]
    return [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]


def holds(requirement: Requirement, where: dict[str, str], extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate(where | {"extra": e}) for e in extras | {""})


def pinned(where: dict[str, str]) -> dict[str, str]:
    """The version of each package there."""
    found = [pin for pin in pins() if holds(pin, where, frozenset())]
    versions = {canonical(pin.name): str(pin.specifier).removeprefix("==") for pin in found}
    assert len(versions) == len(found), "a package is pinned twice"
    return versions


@functools.cache
def metadata(name: str, version: str) -> tuple[SpecifierSet, list[Requirement]]:
    """Requires-Python and Requires-Dist of a pin; raises AssertionError where neither is known."""
    if name in FOREIGN:
        known = FOREIGN[name]
        assert known["version"] == version, f"foreign_metadata.json has {name} {known['version']}"
        python, requires = known["requires_python"], known["requires_dist"]
        return SpecifierSet(python or ""), [Requirement(text) for text in requires]
    installed = importlib.metadata.distribution(name)
    assert installed.version == version, f"{name}: {installed.version} is installed: make install"
    python = installed.metadata.get("Requires-Python") or ""
    return SpecifierSet(python), [Requirement(text) for text in installed.requires or []]


def problems(roots: list[str], where: dict[str, str]) -> tuple[list[str], set[str]]:
    """What is wrong with the closure of `roots`, and the packages in it."""
    versions, wrong = pinned(where), list[str]()
    waiting, seen = (
        [("afd", Requirement(root)) for root in roots],
        set[tuple[str, frozenset[str]]](),
    )
    while waiting:
        of, wanted = waiting.pop()
        name, extras = canonical(wanted.name), frozenset(wanted.extras)
        if name not in versions:
            wrong.append(f"{of} requires {wanted}: no pin there")
        elif not wanted.specifier.contains(versions[name], prereleases=True):
            wrong.append(f"{of} requires {wanted}: the pin is {versions[name]}")
        elif (name, extras) not in seen:
            seen.add((name, extras))
            python, requires = metadata(name, versions[name])
            if not python.contains(where["python_full_version"]):
                wrong.append(f"{name} {versions[name]} requires Python {python}")
            waiting += [(name, one) for one in requires if holds(one, where, extras)]
    return wrong, {name for name, _ in seen}


@functools.cache
def closure(platform: str, python: str) -> tuple[list[str], set[str]]:
    return problems(roots(), environment(platform, python))


def roots() -> list[str]:
    return [*PROJECT_TABLE["dependencies"], *PROJECT_TABLE["optional-dependencies"]["test"]]


@pytest.mark.parametrize(("platform", "python"), ENVIRONMENTS)
def test_every_requirement_has_a_pin_that_fits(platform: str, python: str) -> None:
    assert not closure(platform, python)[0]


def test_no_pin_is_left_over() -> None:
    """A pin that no platform needs is a version that nobody tests."""
    needed = set[str]()
    for platform, python in ENVIRONMENTS:
        needed |= closure(platform, python)[1]
    assert {canonical(pin.name) for pin in pins()} == needed


def test_no_pin_of_a_platform_is_left_over() -> None:
    for platform, python in ENVIRONMENTS:
        where = environment(platform, python)
        marked = {
            canonical(pin.name) for pin in pins() if pin.marker and holds(pin, where, frozenset())
        }
        assert marked <= closure(platform, python)[1], (platform, python)


def test_a_missing_pin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock before 0.1.0 had no package of CUDA: `import torch` failed on plain PyPI."""
    without = [pin for pin in pins() if not pin.name.startswith("nvidia-")]
    monkeypatch.setitem(globals(), "pins", lambda: without)
    wrong, _ = problems(roots(), environment("linux-x86_64", "3.11.7"))
    assert any("nvidia-cudnn" in line for line in wrong)
    assert not problems(roots(), environment("macos-arm64", "3.11.7"))[0]


@pytest.mark.parametrize("name", ["torch", "fastapi", "omegaconf"])
def test_pins_that_matter(name: str) -> None:
    """Numbers were recorded with torch 2.13.0; fastapi 0.151 breaks Prefect's client."""
    allowed = {"torch": "==2.13.0", "fastapi": ">=0.139,<0.151", "omegaconf": ">=2.3,<3"}
    (pin,) = [pin for pin in pins() if canonical(pin.name) == name]
    assert SpecifierSet(allowed[name]).contains(str(pin.specifier).removeprefix("=="))
    assert not [pin for pin in pins() if canonical(pin.name) in {"torchvision", "torchaudio"}]
