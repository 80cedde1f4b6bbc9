"""A wheel of this checkout: its data, and commands from a folder that is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 900.0
SOURCES = ("afd", "flows", "params")
FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves build/ and *.egg-info where it builds."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(PROJECT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(copy)], check=True)
    return next(out.glob("afd-*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked as pip does; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(site: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_every_params_file_and_template_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        licence = [name for name in names if name.endswith("licenses/LICENSE")]
        about = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    params = {f"afd/shipped/{f.relative_to(PROJECT)}" for f in PROJECT.glob("params/**/*.yaml")}
    assert params
    assert params <= names
    assert "afd/evaluation/report.html.j2" in names
    assert licence
    assert "License-Expression: Apache-2.0" in about
    assert not [name for name in names if name.startswith(("tests", "params", "benchmarks"))]


def test_plan_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    code = "import afd; print(afd.__file__)"
    assert run(site, tmp_path, "-c", code).stdout.startswith(str(site))
    planned = run(site, tmp_path, "-m", "flows.cli", "plan", "params/pocket.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "clips at most" in planned.stdout
    own = run(site, tmp_path, "-m", "flows.cli", "init", "own")
    assert own.returncode == 0, own.stderr
    assert (tmp_path / "own" / "params.yaml").exists()
    overlaid = ("plan", "params/pocket.yaml", "--overlay", "params/ablations/shuffled.yaml")
    assert run(site, tmp_path, "-m", "flows.cli", *overlaid).returncode == 0


def test_a_file_of_the_folder_comes_first(site: Path, tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "pocket.yaml").write_text("seed: one\n")
    planned = run(site, tmp_path, "-m", "flows.cli", "plan", "params/pocket.yaml")
    assert planned.returncode == 2
    assert "seed" in planned.stderr


def test_a_wrong_name_lists_the_shipped_files(site: Path, tmp_path: Path) -> None:
    planned = run(site, tmp_path, "-m", "flows.cli", "plan", "params/poket.yaml")
    assert planned.returncode == 2
    assert "pocket.yaml" in planned.stderr


def test_ablations_name_the_clone(site: Path, tmp_path: Path) -> None:
    asked = ("ablation", "play", "afd", "--group", "main", "--seed", "1")
    refused = run(site, tmp_path, "-m", "flows.cli", *asked)
    assert "clone" in refused.stderr, refused
    assert "Traceback" not in refused.stderr


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.campaign
def test_a_tiny_campaign_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    chosen = ("campaign", "--name", "t", "--params", "params/tiny.yaml", "--no-prefect")
    done = run(site, tmp_path, "-m", "flows.cli", *chosen)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "t" / "report.html").exists()
    again = run(site, tmp_path, "-m", "flows.cli", "campaign", "--name", "t", "--no-prefect")
    assert again.returncode == 0, again.stderr
    assert "is gone" not in again.stderr
