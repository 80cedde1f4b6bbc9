"""Child process that opens untrusted files: one line of JSON in, one out (inspection.py).

    {"path": ..., "limits": {...}, "cpu_s": ..., "canon": {...} | null, "out": ... | null}
    {"facts": {...}} or {"reason": ...}

A crash, a decompression bomb or an endless loop of a decoder ends this process and nothing else.
"""

import contextlib
import hashlib
import json
import os
import resource
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from afd.config import CanonicalParams
from afd.video.canonical import CanonicalFormat, canonical_mp4
from afd.video.content import Content
from afd.video.decode import ClipLimits, OpenClip, TimedFrame, open_clip
from afd.video.encode import encode
from afd.video.mp4_boxes import ClipError

LARGEST_OUTPUT = 512 * 2**20  # of a canonical clip


def main() -> None:
    """Answer until the input ends; the only argument is the most memory in MB."""
    _load_libraries()
    _limit_memory(int(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        _allow_cpu(float(request["cpu_s"]))
        try:
            answer = {"facts": _inspect(request)}
        except ClipError as error:
            answer = {"reason": str(error)}
        except MemoryError:
            answer = {"reason": f"needs more than the {sys.argv[1]} MB that a clip may take"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _inspect(request: dict[str, Any]) -> dict[str, Any]:
    canon = _canonical_format(request.get("canon"))
    with _plain_file(request["path"]) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        with open_clip(file, ClipLimits(**request["limits"])) as clip:
            content = Content()
            if canon is None:
                for _ in _inspected(clip, content):
                    pass
            else:
                made = canonical_mp4(_inspected(clip, content), canon)
                _write(Path(request["out"]), made)
            header = clip.header
            return {
                "sha256": digest,
                "content_sha256": content.sha256,
                "num_bytes": header.outline.num_bytes,
                "num_frames": clip.num_frames,
                "fps": float(header.fps),
                "width": header.width,
                "height": header.height,
                "codec": header.codec,
                "duration_s": float(clip.num_frames / header.fps),
                "num_hidden_frames": clip.num_hidden,
                "colour": "; ".join(sorted(clip.colours)),
                "is_variable_rate": clip.is_variable_rate,
                "has_sound": header.has_sound,
                "has_c2pa": header.outline.has_c2pa,
                "flags": list(content.flags()),
            }


def _inspected(clip: OpenClip, content: Content) -> Iterator[TimedFrame]:
    for timed in clip.frames():
        content.add(timed.frame)
        yield timed


@contextlib.contextmanager
def _plain_file(path: str) -> Iterator[BufferedReader]:
    """Open a plain file without following a link or waiting for a pipe."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ClipError(f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ClipError("not a plain file")
    with os.fdopen(number, "rb") as file:
        yield file


def _write(path: Path, made: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _canonical_format(request: dict[str, Any] | None) -> CanonicalFormat | None:
    if request is None:
        return None
    own = CanonicalParams.model_validate(request["params"])
    return CanonicalFormat(own, request["num_frames"], request["frame_size"], request["fps"])


def as_json(canon: CanonicalFormat) -> dict[str, Any]:
    """Return `canon` as the JSON that `_canonical_format` reads."""
    return asdict(canon) | {"params": canon.params.model_dump(mode="json")}


def _load_libraries() -> None:
    """Make PyAV and NumPy load their libraries before memory is limited."""
    picture = np.zeros((2, 16, 16, 3), np.uint8)
    with open_clip(encode(picture, 16)) as clip:
        content = Content()
        for _ in _inspected(clip, content):
            content.flags()


def _limit_memory(memory_mb: int) -> None:
    """Limit memory to what is in use plus `memory_mb`; no core file, no large output."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_OUTPUT, LARGEST_OUTPUT))


def _allow_cpu(seconds: float) -> None:
    """Let SIGXCPU end this process after `seconds` of CPU: a limit that no other load changes."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = used.ru_utime + used.ru_stime
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, most))


if __name__ == "__main__":
    main()
