"""The adapter of a campaign's remote teacher."""

from afd.config import RemoteTeacher as RemoteTeacherParams
from afd.teachers.vendors.ark import Ark
from afd.teachers.vendors.fal import Fal
from afd.teachers.vendors.kling import Kling
from afd.teachers.vendors.openai_videos import OpenAIVideos
from afd.teachers.vendors.protocol import RemoteTeacher
from afd.teachers.vendors.replicate import Replicate
from afd.teachers.vendors.veo import Veo


def build(params: RemoteTeacherParams) -> RemoteTeacher:
    """Return the adapter of a provider; each request reads the key anew."""
    base_url, key_variable = params.access.base_url, params.access.key_variable
    match params.provider:
        case "ark":
            return Ark(base_url, key_variable)
        case "veo":
            return Veo(base_url, key_variable)
        case "openai_videos":
            return OpenAIVideos(base_url, key_variable)
        case "replicate":
            return Replicate(base_url, key_variable)
        case "fal":
            return Fal(base_url, key_variable)
        case "kling":
            return Kling(base_url, key_variable)
