"""The providers' shapes, from the vendor's side: routes, bodies, words for states, refusals.

Written from the vendors' public references (read in November 2026), independently of the adapters.
"""

from typing import Literal

from tests.harvest_server.vendors.ark import Ark
from tests.harvest_server.vendors.fal import Fal
from tests.harvest_server.vendors.kling import Kling
from tests.harvest_server.vendors.openai_videos import OpenAI
from tests.harvest_server.vendors.replicate import Replicate
from tests.harvest_server.vendors.vendor import Vendor
from tests.harvest_server.vendors.veo import Veo

Provider = Literal["ark", "veo", "openai_videos", "replicate", "fal", "kling"]
BASE_PATHS: dict[Provider, str] = {
    "ark": "/api/v3",
    "veo": "/v1beta",
    "openai_videos": "/v1",
    "replicate": "/v1",
    "fal": "",
    "kling": "/v1",
}
VENDORS: dict[Provider, type[Vendor]] = {
    "ark": Ark,
    "veo": Veo,
    "openai_videos": OpenAI,
    "replicate": Replicate,
    "fal": Fal,
    "kling": Kling,
}
