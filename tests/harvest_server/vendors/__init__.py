"""The providers' shapes, from the vendor's side: routes, bodies, words for states, refusals.

Written from the vendors' public references (read in November 2026), independently of the adapters.
"""

from typing import Literal

from tests.harvest_server.vendors.ark import Ark
from tests.harvest_server.vendors.dashscope import DashScope
from tests.harvest_server.vendors.fal import Fal
from tests.harvest_server.vendors.gemini import Gemini
from tests.harvest_server.vendors.kling import Kling
from tests.harvest_server.vendors.openai_videos import OpenAI
from tests.harvest_server.vendors.openrouter import OpenRouter
from tests.harvest_server.vendors.replicate import Replicate
from tests.harvest_server.vendors.vendor import Vendor
from tests.harvest_server.vendors.veo import Veo

Provider = Literal[
    "ark", "openrouter", "gemini", "veo", "dashscope", "openai_videos", "replicate", "fal", "kling",
]  # fmt: skip
BASE_PATHS: dict[Provider, str] = {
    "ark": "/api/v3",
    "openrouter": "/api/v1",
    "gemini": "/v1beta",
    "veo": "/v1beta",
    "dashscope": "/api/v1",
    "openai_videos": "/v1",
    "replicate": "/v1",
    "fal": "",
    "kling": "/v1",
}
VENDORS: dict[Provider, type[Vendor]] = {
    "ark": Ark,
    "openrouter": OpenRouter,
    "gemini": Gemini,
    "veo": Veo,
    "dashscope": DashScope,
    "openai_videos": OpenAI,
    "replicate": Replicate,
    "fal": Fal,
    "kling": Kling,
}
