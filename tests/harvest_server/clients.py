"""The adapter of each provider, pointed at a scripted vendor, and an order for it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import httpx

from afd.harvest.http import client
from afd.teachers.vendors.build import ADAPTERS
from afd.teachers.vendors.protocol import Order, RemoteTeacher
from tests.harvest_server.films import SOME_PROMPT
from tests.harvest_server.server import Server
from tests.harvest_server.vendors import Provider

MODELS: dict[Provider, str] = {
    "ark": "doubao-seedance-1-0-pro-250528",
    "openrouter": "bytedance/seedance-2.0",
    "gemini": "gemini-omni-1.2-flash",
    "veo": "veo-3.1-generate-001",
    "dashscope": "wan2.7-t2v",
    "openai_videos": "Wan-AI/Wan2.2-T2V-A14B",
    "replicate": "wan-video/wan-2.2-t2v-fast",
    "fal": "fal-ai/wan/v2.2-a14b/text-to-video",
    "kling": "kling-v2-master",
}
VARIABLE = "AFD_TEST_VENDOR_KEY"
CANARY = "CANARYACCESSKEY0123456789:CANARYSECRETKEY0123456789"
Result = TypeVar("Result")


def teacher(server: Server) -> RemoteTeacher:
    """The adapter for `server`; its key is a canary to be searched for."""
    os.environ[VARIABLE] = CANARY
    return ADAPTERS[server.provider](server.base_url, VARIABLE)


def order(provider: Provider, **changes: Any) -> Order:
    """One clip of the pocket world."""
    usual = Order(
        key="5f" * 32,
        prompt=SOME_PROMPT,
        seed=None if provider in ("kling", "gemini") else 1234,
        model=MODELS[provider],
        parameters={},
        duration_s=5.0,
        fps=16.0,
        size=(64, 64),
    )
    return replace(usual, **changes)


def alone(work: Callable[[httpx.AsyncClient], Awaitable[Result]], read_s: float = 5.0) -> Result:
    """The result of `work` with a client of its own."""

    async def run() -> Result:
        async with client(read_s=read_s) as http:
            return await work(http)

    return asyncio.run(run())
