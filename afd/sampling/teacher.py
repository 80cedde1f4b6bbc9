"""A teacher's clip of a sentence, out of the store; nothing is ever ordered."""

from afd.artifacts import Artifact
from afd.clips.shards import read_table, read_videos
from afd.sampling.campaign import Campaign
from afd.sampling.video import Video
from afd.video.canonical import canonical_format, conform


class TeacherClips:
    """The teacher clips of one campaign, by sentence."""

    def __init__(self, campaign: Campaign) -> None:
        self._settings = campaign.settings
        self._places: dict[str, tuple[Artifact, int]] = {}
        for artifact in campaign.teacher_clips:
            for row, sentence in enumerate(read_table(artifact.path)["prompt"].tolist()):
                self._places.setdefault(str(sentence), (artifact, row))

    def __call__(self, sentence: str) -> Video | None:
        """Return the first clip of a sentence in the student's size, rate and length, or None.

        Raises ShardError for a clip that cannot be read.
        """
        if sentence not in self._places:
            return None
        artifact, row = self._places[sentence]
        clips, _ = read_videos(artifact.path, canonical_format(self._settings), conform, [row])
        frames = clips[0].permute(0, 2, 3, 1).contiguous().numpy()
        return Video(frames, int(self._settings["fps"]), sentence, "teacher")
