"""The scripted vendor as a process of its own: what kills its clients leaves its counts alone."""

import subprocess
import sys

import httpx
import pytest

from afd.teachers.vendors.protocol import AmbiguousError
from afd.teachers.vendors.replicate import Replicate
from tests.harvest_server import Rule, Script
from tests.harvest_server.clients import VARIABLE, alone, order


def test_it_prints_its_address_takes_scripts_and_keeps_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "a-key-of-the-vendor")
    command = [sys.executable, "-m", "tests.harvest_server", "--provider", "replicate"]
    process = subprocess.Popen([*command, "--key", "a-key-of-the-vendor"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        base_url = process.stdout.readline().decode().strip()
        root = base_url.removesuffix("/v1")
        adapter, asked = Replicate(base_url, VARIABLE), order("replicate")

        async def life(http: httpx.AsyncClient) -> None:
            await adapter.create(http, asked)
            script = Script(rules=(Rule("create", "reset_after"),), key="a-key-of-the-vendor")
            await http.post(f"{root}/control/script", content=script.to_json())
            with pytest.raises(AmbiguousError):
                await adapter.create(http, asked)
            posts = (await http.get(f"{root}/control/posts")).json()
            assert posts == [[asked.prompt, asked.seed, 2]]
            assert len((await http.get(f"{root}/control/jobs")).json()) == 2

        alone(life)
    finally:
        process.terminate()
        process.wait(10)
