"""A student that makes videos of sentences: `afd.load_student`.

    student = afd.load_student("runs/demo", round=7)
    video = student("a small red ball starts high on the left and drops straight down", seed=1)
    video.save("ball.mp4")

A sentence and a seed give the same frames in every process of one kind of machine, alone or beside
others: clips are sampled one by one, and small students on one thread. Seed n of a held-out
sentence is the clip that the evaluation made under its noise seed n.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import overload

import torch

from afd.artifacts import MANIFEST, Artifact, Manifest
from afd.config import FamilyName, student_family
from afd.prompts import prompt_id
from afd.sampling.campaign import Campaign, RoundStudent, as_round, open_campaign, settings_of
from afd.sampling.errors import SamplingError
from afd.sampling.sentences import refuse_sentences
from afd.sampling.text import encoder_of
from afd.sampling.video import Video, Videos
from afd.store import Store
from afd.students.checkpoint import LoadedStudent, WeightsName, describe, load_student
from afd.students.sampling import noise_seed_of, sample_clips


class SampledStudent:
    """A student of a campaign, ready to make videos; its weights are read at the first one."""

    def __init__(
        self,
        artifact: Artifact,
        label: str,
        fps: int,
        which: WeightsName = "average",
        components: Path | None = None,
        example: str = "",
    ) -> None:
        self.artifact = artifact
        self.label = label
        self.fps = fps
        self.which: WeightsName = which
        self.params = describe(artifact.path).params
        self._components = components
        self._example = example
        file = artifact.path / f"{which}.safetensors"
        if not file.is_file():
            raise SamplingError(f"{file}: there is no such file; restore it with `dvc pull`")

    def __repr__(self) -> str:
        fingerprint = self.artifact.manifest.fingerprint[:16]
        return f"<{self.label}: {self.params.family}, {self.which} weights of {fingerprint}>"

    @overload
    def __call__(
        self, sentences: str, seed: int = 1, *, guidance: float | None = None
    ) -> Video: ...

    @overload
    def __call__(
        self, sentences: str, seed: Sequence[int], *, guidance: float | None = None
    ) -> Videos: ...

    @overload
    def __call__(
        self,
        sentences: list[str] | tuple[str, ...],
        seed: int | Sequence[int] = 1,
        *,
        guidance: float | None = None,
    ) -> Videos: ...

    def __call__(
        self,
        sentences: str | Sequence[str],
        seed: int | Sequence[int] = 1,
        *,
        guidance: float | None = None,
    ) -> "Video | Videos":
        """Sample a video of one sentence and seed, or Videos of several, sentence by sentence.

        `guidance`: the scale of classifier-free guidance, for published students. Raises
        SamplingError naming every sentence that the student cannot read.
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        chosen = [seed] if isinstance(seed, int) else list(seed)
        made = Videos(self._sampled(texts, chosen, guidance))
        return made[0] if isinstance(sentences, str) and isinstance(seed, int) else made

    def _sampled(
        self, texts: Sequence[str], chosen: Sequence[int], guidance: float | None
    ) -> Iterator[Video]:
        refuse_sentences(self.params.family, texts)
        family = self.params.family
        if guidance is not None and not student_family(family).open_vocabulary:
            raise SamplingError(
                f"guidance {guidance:g} needs a published student: student.family {family} "
                "has no empty prompt"
            )
        encode = encoder_of(self.artifact.path, texts, self._components, self._example)
        loaded = replace(self._loaded, encode=encode)
        for text in texts:
            for number in chosen:
                noise_seed = noise_seed_of(number, prompt_id(text))
                with _steady(self.params.family), torch.no_grad():
                    clip = sample_clips(loaded, [text], [noise_seed], guidance)[0]
                if not torch.isfinite(clip).all():
                    raise SamplingError(
                        f"{self.label}: the video of {text!r}, seed {number}, holds NaN or "
                        "infinity: this student has diverged; choose an earlier --round"
                    )
                frames = (clip * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
                yield Video(frames.cpu().numpy(), self.fps, text, self.label, number)

    @cached_property
    def _loaded(self) -> LoadedStudent:
        return load_student(self.artifact.path, self.which)


def load(
    campaign: str | Path,
    round: int | str | None = None,
    *,
    store: str | Path | None = None,
    which: WeightsName = "average",
    components: str | Path | None = None,
) -> SampledStudent:
    """Load the student of a campaign's round.

    `round`: a number, "start" for the student before any round, or None for the last.

    `campaign`: its folder ("runs/demo"), its name below runs/, or a folder of student weights in a
    store. `store`: where it is not the one that the campaign was run with. `which`: the moving
    average, which evaluation measures, or the `student` in training. `components`: a folder with
    text_encoder/ and tokenizer/ for sentences that a published student was not started with.
    Raises SamplingError naming what there is instead.
    """
    folder = None if components is None else Path(components)
    if (Path(campaign) / "student.json").is_file():
        return of_weights(Path(campaign), which=which, components=folder)
    found = open_campaign(campaign, store)
    return of_round(found, found.student(as_round(round)), which, folder)


def of_round(
    campaign: Campaign,
    student: RoundStudent,
    which: WeightsName = "average",
    components: Path | None = None,
) -> SampledStudent:
    """Load the student that a campaign's round made."""
    fps = int(campaign.settings["fps"])
    prompts = [prompt.text for prompt in campaign.prompts if prompt.split == "held_out"]
    example = prompts[0] if prompts else ""
    return SampledStudent(student.artifact, student.label, fps, which, components, example)


def of_weights(
    folder: Path,
    fps: int | None = None,
    which: WeightsName = "average",
    components: Path | None = None,
) -> SampledStudent:
    """Load the student of a StudentWeights folder; raises SamplingError for another folder."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise SamplingError(f"{folder}: holds no student's weights: {error}") from None
    artifact = Artifact(folder, manifest)
    if fps is None:
        fps = int(settings_of([artifact], Store(folder.parent.parent))["fps"])
    index = manifest.params.get("round_index")
    return SampledStudent(
        artifact, "start" if index is None else f"round {index}", fps, which, components
    )


@contextlib.contextmanager
def _steady(family: FamilyName) -> Iterator[None]:
    """One thread for the small students of the pocket world, as their stages use: sums come out in
    one order. Published students take every thread."""
    before = torch.get_num_threads()
    if not student_family(family).is_published:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
