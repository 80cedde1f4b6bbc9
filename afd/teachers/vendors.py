"""The adapter of a campaign's remote teacher."""

from afd.config import RemoteTeacher as RemoteTeacherParams
from afd.teachers.ark import Ark
from afd.teachers.fal import Fal
from afd.teachers.kling import Kling
from afd.teachers.openai_videos import OpenAIVideos
from afd.teachers.remote import RemoteTeacher
from afd.teachers.replicate import Replicate
from afd.teachers.veo import Veo


def build(params: RemoteTeacherParams) -> RemoteTeacher:
    """By provider; the key is read when a request is made, not here."""
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
