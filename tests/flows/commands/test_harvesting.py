"""`afd harvest` as a person types it, against a vendor in a process of its own, and the secrets.

A canary stands in for the key, another one in the vendor's signed URLs: neither may be found in
anything that any command prints or leaves.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from afd.config import Params, SimulatorTeacher
from afd.params import load_params
from afd.runtime.outcome import RefusedError
from afd.teachers.build import build
from afd.world.sentences import all_sentences
from flows.commands.keeping import Importing, import_videos
from tests.afd.harvest.ordering import KEY, KEY_VARIABLE, teacher_at, until
from tests.flows.conftest import PARAMS, PROJECT
from tests.harvest_server.script import Fate, Rule, Script
from tests.harvest_server.server import Server

SIGNATURE = "CANARYSIGNATURE"
TERMS = ("--terms-url", "https://example.com/terms", "--terms-date", "2026-11-26")
AFD = [sys.executable, "-m", "flows.cli"]


class Terminal:
    """Types commands in a folder and keeps everything they said."""

    def __init__(self, folder: Path, teacher: dict[str, Any]) -> None:
        self.folder, self.said = folder, ""
        (folder / "teacher.yaml").write_text(yaml.safe_dump({"teacher": teacher}))
        self.chosen = ("--params", str(PARAMS), "--overlay", "teacher.yaml")

    def afd(self, *arguments: str, code: int = 0, **environ: str) -> str:
        """What the command said; its exit code must be `code`."""
        done = subprocess.run(
            [*AFD, *arguments],
            cwd=self.folder,
            env=os.environ
            | {KEY_VARIABLE: KEY, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
            | environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        told = done.stdout + done.stderr
        self.said += told
        assert done.returncode == code, told
        return told

    def harvest(self, *arguments: str, code: int = 0, **environ: str) -> str:
        return self.afd("harvest", *arguments, code=code, **environ)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server("ark", Script(key=KEY, job_s=0.05)) as server:
        yield server


@pytest.fixture
def typed(tmp_path: Path, server: Server) -> Terminal:
    return Terminal(tmp_path, teacher_at(server, budget_usd=0.1).model_dump(mode="json"))


def test_from_a_plan_over_a_pilot_to_the_end_of_the_budget(typed: Terminal, server: Server) -> None:
    planned = typed.harvest("plan", *typed.chosen)
    assert "to order      12" in planned and "cost          0.12 USD" in planned
    assert "budget does not cover" in planned and not server.book.requests
    assert "clips    3 of 3" in typed.harvest("run", *typed.chosen, "--limit", "3")
    stopped = typed.harvest("run", *typed.chosen, code=2)
    assert "would exceed teacher.access.budget_usd" in stopped and len(server.jobs()) == 10
    typed.harvest("run", *typed.chosen, "--set", "teacher.access.budget_usd=1.0")
    assert set(server.posts().values()) == {1} and len(server.posts()) == 12
    assert "in the store  12" in typed.harvest("plan", *typed.chosen)
    assert "verified  12" in typed.harvest("status")
    assert "the store is whole" in typed.harvest("verify")
    lost = next((typed.folder / "store" / "clips").glob("*/*.mp4"))
    lost.unlink()
    damaged = typed.harvest("verify", code=3)
    assert "missing" in damaged and "paid, but gone  1" in typed.harvest("status")
    enough = ("--set", "teacher.access.budget_usd=1.0")
    assert "1 clips that were paid" in typed.harvest("run", *typed.chosen, *enough, code=2)
    assert "paid, but gone  1" in typed.harvest("plan", *typed.chosen, *enough)
    key = lost.name.partition(".")[0]
    command = next(line for line in damaged.splitlines() if " harvest resolve" in line)
    told = typed.afd("harvest", *command.partition(" harvest ")[2].split())
    assert told.startswith(f"{key[:12]} verified -> ") and told.strip().endswith(" planned")
    typed.harvest("run", *typed.chosen, "--set", "teacher.access.budget_usd=1.0")
    assert len(server.posts()) == 13  # the lost one, once more, with another seed


def test_what_is_wrong_is_told_with_its_cure_and_nothing_is_sent(
    typed: Terminal, server: Server
) -> None:
    no_price = typed.harvest(
        "plan", *typed.chosen, "--set", "teacher.access.price.usd_per_clip=null", code=2
    )
    assert "teacher.access.price: write exactly one of usd_per_clip" in no_price
    pasted = typed.harvest(
        "run", *typed.chosen, "--set", "teacher.access.key_variable=sk-a1b2c3d4", code=2
    )
    assert "NAME of an environment variable" in pasted and "sk-a1b2c3d4" not in pasted
    unset = typed.harvest("run", *typed.chosen, "--limit", "1", code=2, **{KEY_VARIABLE: ""})
    assert KEY_VARIABLE in unset
    assert "only a remote teacher" in typed.harvest("plan", "--params", str(PARAMS), code=2)
    untrained = ("--set", "teacher.training_permitted=unknown")
    refused = typed.afd("campaign", "--name", "x", *typed.chosen, *untrained, code=2)
    assert "teacher.training_permitted is 'unknown'" in refused
    assert not server.book.requests
    typed.harvest("run", *typed.chosen, *untrained, "--limit", "1")
    assert len(server.jobs()) == 1


def test_what_cannot_be_meant_is_refused_in_a_sentence(typed: Terminal, tmp_path: Path) -> None:
    for told, arguments in (
        ("Must be >= 1", ("pack", "--clips-per-shard", "0")),
        ("Must be >= 1", ("plan", *typed.chosen, "--limit", "-1")),
        ("there is no such folder", ("verify", "--store", "elsewhere")),
        ("there is no such folder", ("pack", "--store", "elsewhere")),
        ("training_permitted", ("permit", "folder/x", "--permitted", "maybe", *TERMS)),
        ("has no clip of it", ("permit", "folder/x", "--permitted", "yes", *TERMS, "--store", ".")),
    ):
        said = typed.harvest(*arguments, code=2)
        assert told in said and "Traceback" not in said
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("gap_s", [0.001, 0.2])
def test_two_signals_at_once_are_one_and_the_command_to_go_on_is_the_right_one(
    typed: Terminal, server: Server, gap_s: float
) -> None:
    server.rewrite(Script(key=KEY, job_s=3.0))
    command = [*AFD, "harvest", "run", *typed.chosen, "--set", "teacher.access.budget_usd=1.0"]
    running = subprocess.Popen(
        command,
        cwd=typed.folder,
        env=os.environ | {KEY_VARIABLE: KEY, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: len(server.posts()) >= 4, 90.0)  # a loaded machine imports for long
    for number in (signal.SIGTERM, signal.SIGINT):
        running.send_signal(number)
        time.sleep(gap_s)
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 130, told
    assert "Traceback" not in told and "afd resume" not in told
    assert "run the same command again to go on" in told and "% of what ended" not in told
    server.rewrite(Script(key=KEY, job_s=0.05))
    went_on = typed.harvest("run", *typed.chosen, "--set", "teacher.access.budget_usd=1.0")
    assert "clips  12 of 12" in went_on or "clips    12 of 12" in went_on
    assert set(server.posts().values()) == {1}


def test_a_folder_becomes_a_campaign_by_the_commands_of_the_docs(tmp_path: Path) -> None:
    """Import, the campaign that it names, and what an import says of its terms."""
    typed = Terminal(tmp_path, {})
    shutil.copytree(PROJECT / "params", tmp_path / "params")
    params = load_params(Params, PARAMS)
    assert isinstance(params.teacher, SimulatorTeacher)
    films = build(params.teacher, params.num_frames, params.fps)
    (tmp_path / "videos").mkdir()
    for number, sentence in enumerate(all_sentences()[::36]):
        (tmp_path / f"videos/{number}.mp4").write_bytes(films.film(sentence.text, number))
        (tmp_path / f"videos/{number}.txt").write_text(sentence.text)
    own = ("--prompts", "prompts.jsonl", "--overlay", "my-clips.yaml")
    arguments = ("import", "videos", "--name", "my-clips", *TERMS, *own)
    told = typed.harvest(*arguments, "--permitted", "no")
    assert "12 clips imported" in told and "2 held_out, 10 train" in told
    typed_so = ["campaign", "my-clips", "--params", "params/pocket.yaml"]
    typed_so += ["--overlay", "my-clips.yaml"]
    assert " ".join(typed_so) in told
    tiny = [word.replace("pocket", "tiny") for word in typed_so]
    here = ("--set-cluster", "executor=in_process", "--no-prefect", "--set", "num_rounds=1")
    assert "is 'no'" in typed.afd(*tiny, *here, code=2)
    forced = ("--set", "teacher.training_permitted=yes")  # params alone do not make it so
    refused = typed.afd(*tiny, *here, *forced, code=2)
    assert "clip" in refused and "afd harvest permit folder/my-clips" in refused
    assert not (tmp_path / "runs").exists()
    assert "12 of those have other terms now" in typed.harvest(*arguments, "--permitted", "yes")
    typed.afd(*tiny, *here)
    assert (tmp_path / "runs" / "my-clips" / "report.html").exists()


def decoded(path: Path) -> Iterator[bytes]:
    """A file as it is, and what is inside where it is compressed."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        yield pd.read_parquet(path).to_csv().encode()
    for unpack in (gzip.decompress, zlib.decompress):
        try:
            yield unpack(data)
        except (OSError, EOFError, zlib.error):
            continue


@pytest.mark.campaign
def test_no_key_and_no_signed_url_is_found_in_anything_that_a_campaign_leaves(
    typed: Terminal, server: Server, tmp_path: Path
) -> None:
    page = f"<html>login {KEY} <a href='https://cdn.test/film?sig={SIGNATURE}'>here</a></html>"
    echo = json.dumps({"error": {"code": "InvalidParameter", "message": f"bad key {KEY}?"}})
    server.rewrite(
        Script(
            key=KEY,
            job_s=0.05,
            rules=(
                Rule("create", status=400, body=echo),
                Rule("poll", status=500, body=echo),
                Rule("download", status=403, body=f"<Error>{KEY}</Error>"),
                Rule("download", status=200, body=page),
            ),
            fates=(Fate("small green", ends="refused_output", text=f"policy {KEY}"),),
        )
    )
    typed.harvest("run", *typed.chosen, code=2, **{KEY_VARIABLE: f"WRONG{KEY}"})
    typed.harvest("run", *typed.chosen, "--set", "teacher.access.budget_usd=1.0")
    told = typed.afd(
        *("campaign", "--name", "paid", *typed.chosen),
        *("--set", "teacher.access.budget_usd=1.0", "--set", "teacher.access.min_clip_share=0.25"),
        *("--cluster", str(PROJECT / "params/cluster/local.yaml")),
        *("--set-cluster", "executor=in_process", "--no-prefect"),
    )
    assert (tmp_path / "runs" / "paid" / "report.html").exists(), told
    assert len(server.book.requests) > 20
    for canary in (KEY[:12], SIGNATURE):  # no part of it either
        assert canary not in typed.said
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert canary not in path.name
                if path.parent.name == "quarantine" and path.suffix == ".bin":
                    assert path.stat().st_mode & 0o777 == 0o600  # as delivered, for its owner
                    continue
                assert not any(canary.encode() in part for part in decoded(path)), path
    # The canaries were really there to be found.
    asked = json.dumps(server.book.requests)
    assert KEY in asked
    assert SIGNATURE in asked
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/control/posts") as answer:
        posts = json.loads(answer.read())
    assert max(number for _, _, number in posts) == 1


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path) -> None:
    typed = Terminal(tmp_path, {})
    (tmp_path / "videos").mkdir()
    for name in (b"red\x1b[31m.mp4", b"two\nlines.mp4", b"latin\xe9.mp4", b"plain.mp4"):
        Path(os.fsdecode(bytes(tmp_path / "videos") + b"/" + name)).write_bytes(b"no film")
    (tmp_path / "videos" / "plain.txt").write_text("a ball")
    imported = ("import", "videos", "--name", "x", "--permitted", "yes", *TERMS)
    told = typed.harvest(*imported, code=2)
    assert "\x1b" not in told and "lines.mp4" in told and "\nlines.mp4" not in told
    for shown in (r"'red\x1b[31m.mp4'", r"'two\nlines.mp4'", r"'latin\udce9.mp4'", "plain.mp4"):
        assert shown in told


def test_an_import_of_nothing_is_not_done(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / "a.mp4").symlink_to("/dev/zero")
    (clips / "a.txt").write_text("a red ball")
    terms = {"url": TERMS[1], "date": TERMS[3]}
    importing = Importing(clips, "mine", "yes", terms)
    with pytest.raises(RefusedError, match="no video could be used, nothing was imported"):
        import_videos(importing, tmp_path / "store")
