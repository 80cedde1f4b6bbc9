"""The vendor as a process of its own, so that its clients can be killed and it keeps the count.

    python -m tests.harvest_server --provider ark --port 0 --job-s 2 --latency-s 0.2
    python -m tests.harvest_server --provider veo --script script.json

Prints one line, what access.base_url must be, when it serves; ends with SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import get_args

from tests.harvest_server.script import Script
from tests.harvest_server.server import Server
from tests.harvest_server.vendors import Provider


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(prog="tests.harvest_server", description=__doc__)
    parser.add_argument("--provider", choices=get_args(Provider), required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--script", type=Path, help="a Script as JSON")
    parser.add_argument("--latency-s", type=float)
    parser.add_argument("--job-s", type=float)
    parser.add_argument("--key")
    parser.add_argument("--film", choices=("simulator", "constant"))
    given = parser.parse_args()
    script = Script.from_json(given.script.read_text()) if given.script else Script()
    named = ("latency_s", "job_s", "key", "film")
    changes = {name: getattr(given, name) for name in named if getattr(given, name) is not None}
    server = Server(given.provider, replace(script, **changes), given.port)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(server))


async def _serve(server: Server) -> None:
    listening = await server.listen()
    print(server.base_url, flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    main()
