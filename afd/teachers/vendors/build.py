"""The adapter of a campaign's remote teacher."""

from collections.abc import Callable

from afd.config import RemoteTeacher as RemoteTeacherParams
from afd.config.teachers import Provider
from afd.teachers.vendors.ark import Ark
from afd.teachers.vendors.dashscope import DashScope
from afd.teachers.vendors.fal import Fal
from afd.teachers.vendors.gemini import Gemini
from afd.teachers.vendors.kling import Kling
from afd.teachers.vendors.openai_videos import OpenAIVideos
from afd.teachers.vendors.openrouter import OpenRouter
from afd.teachers.vendors.protocol import RemoteTeacher
from afd.teachers.vendors.replicate import Replicate
from afd.teachers.vendors.veo import Veo

ADAPTERS: dict[Provider, Callable[[str, str], RemoteTeacher]] = {
    "ark": Ark,
    "openrouter": OpenRouter,
    "gemini": Gemini,
    "veo": Veo,
    "dashscope": DashScope,
    "openai_videos": OpenAIVideos,
    "replicate": Replicate,
    "fal": Fal,
    "kling": Kling,
}


def build(params: RemoteTeacherParams) -> RemoteTeacher:
    """Return the adapter of a provider; each request reads the key anew."""
    return ADAPTERS[params.provider](params.access.base_url, params.access.key_variable)
