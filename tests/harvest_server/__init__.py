"""A scripted video vendor on 127.0.0.1: every provider's shapes, every fault that users have met.

In a test:          `with Server("ark", Script(...)) as server:` then server.url, server.posts()
As a process:       `python -m tests.harvest_server --provider ark --port 0` prints its URL
While it runs:      GET /control/posts, /control/requests, /control/jobs; POST /control/script
"""

from tests.harvest_server.script import Fate, Rule, Script
from tests.harvest_server.server import Server

__all__ = ["Fate", "Rule", "Script", "Server"]
