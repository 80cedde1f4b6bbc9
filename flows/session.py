"""One process's hold on one campaign: its lock, params, dispatch, lineage and records.

runs/<name>/params.yaml            the resolved params, written once
runs/<name>/rounds/<NNN>.json      what each round made, by role; start and final beside them
runs/<name>/lock                   who runs it now
runs/<name>/{logs,ledger,workers}  circumstance
"""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import yaml

from afd.artifacts import Artifact, ArtifactRef
from afd.config import Cluster, Params
from afd.failpoints import failpoint
from afd.params import ParamsError, validate
from afd.stages.outcome import RefusedError
from afd.stages.request import StageRequest
from afd.store import Store, StoreError, told, write_atomic, write_json
from flows import versions
from flows.board import Board
from flows.dispatch import Dispatch, build
from flows.events import CampaignStatus
from flows.lineage import Lineage
from flows.run_ids import stage_key
from flows.site import Site


class HeldError(RuntimeError):
    """Another process runs this campaign: who, where, since when."""


@dataclass(frozen=True)
class Places:
    """The folders a campaign lives in."""

    runs: Path = Path("runs")
    store: Path = Path("store")

    @property
    def tracking_uri(self) -> str:
        """MLflow's database: one for all campaigns of this folder."""
        folder = (self.runs / ".services" / "mlflow").resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'mlflow.db'}"


@dataclass
class Session:
    """What every stage of a campaign shares."""

    name: str
    params: Params
    site: Site
    dispatch: Dispatch
    lineage: Lineage
    board: Board = field(default_factory=Board)
    with_prefect: bool = False
    _digests: dict[str, str] = field(default_factory=dict[str, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to compute."""
        played = self.next_round >= self.params.num_rounds
        return self._is_finished("start") and played and self._is_finished("final")

    @property
    def next_round(self) -> int:
        """The first round that is not finished."""
        index = 0
        while self._is_finished(f"{index:03d}"):
            index += 1
        return index

    def _is_finished(self, name: str) -> bool:
        made = read_round(self.site.folder / "rounds" / f"{name}.json")
        return made is not None and all(self.site.store.have(ref) for ref in made.values())

    def record(self, round_index: int | None, request: StageRequest, artifact: Artifact) -> None:
        """Tell lineage about a finished stage, once."""
        with self._lock:
            if self.lineage.ids.is_finished(stage_key(artifact.ref)):
                return
            failpoint("flow.before_lineage")
            refs = [artifact.ref, *request.inputs.values()]
            digests = {ref.fingerprint: self._digest(ref) for ref in refs}
            self.lineage.record_stage(round_index, request, artifact, digests)
            failpoint("flow.after_lineage")

    def close_round(self, name: str, made: Mapping[str, ArtifactRef]) -> None:
        """Keep what a round made: by role on disk, by content in DVC."""
        file = self.site.folder / "rounds" / f"{name}.json"
        content = {role: ref.model_dump() for role, ref in made.items()}
        if read_round(file) != dict(made):
            with told(self.site.folder):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, content)
        failpoint("flow.before_versions")
        artifacts = [self.site.store.load(ref) for ref in made.values()]
        versions.track(self.site.folder, name, artifacts)
        failpoint("flow.after_versions")

    def _digest(self, ref: ArtifactRef) -> str:
        if ref.fingerprint not in self._digests:
            self._digests[ref.fingerprint] = versions.digest(self.site.store.load(ref))
        return self._digests[ref.fingerprint]


_held: dict[Path, Session] = {}


@contextmanager
def opened(
    name: str, places: Places, params: Params, cluster: Cluster, *, with_prefect: bool = False
) -> Iterator[Session]:
    """Hold the campaign; the same campaign opened again in this process is the same session.

    Raises HeldError, ParamsError (other params than it was started with) or StoreError.
    """
    folder = campaign_folder(name, places)
    if folder in _held:
        yield _held[folder]
        return
    with told(places.runs):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, name):
        _keep_params(folder, params)
        site = Site(Store(places.store.resolve()), folder, cluster)
        with told(site.store.root):
            site.store.tidy()
        lineage = Lineage(places.tracking_uri, folder)
        session = Session(name, params, site, build(site), lineage, with_prefect=with_prefect)
        _held[folder] = session
        status: CampaignStatus = "killed"
        try:
            lineage.sweep()
            lineage.start_campaign(params.model_dump(mode="json"))
            yield session
            status = "finished" if session.is_complete else "paused"
        except RefusedError:
            status = "paused"  # nothing was tried
            raise
        except Exception:
            status = "failed"
            raise
        finally:
            del _held[folder]
            session.dispatch.close()
            lineage.finish_campaign(status)


def held(name: str, places: Places) -> Session | None:
    """The campaign's session, if this very process holds it."""
    return _held.get(campaign_folder(name, places))


def campaign_folder(name: str, places: Places) -> Path:
    """runs/<name>; raises ParamsError for a name that is no plain folder name."""
    allowed = name.replace("-", "").replace("_", "").replace(".", "")
    if not allowed.isascii() or not allowed.isalnum() or name.startswith(".") or len(name) > 64:
        problem = f"{name!r}: a campaign's name is 1-64 letters, digits, '-', '_' or '.'"
        raise ParamsError("--name", [problem])
    return (places.runs / name).resolve()


def kept_params(folder: Path) -> Params | None:
    """The params a campaign was started with."""
    file = folder / "params.yaml"
    if not file.exists():
        return None
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(str(file), [f"cannot be read as YAML: {error}"]) from None
    return validate(Params, values, str(file))


def read_round(file: Path) -> dict[str, ArtifactRef] | None:
    """What a round made, by role; None before it is finished."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise StoreError(f"{file}: not JSON; remove it and run the same command again") from None
    return {role: ArtifactRef.model_validate(ref) for role, ref in content.items()}


def _keep_params(folder: Path, params: Params) -> None:
    before = kept_params(folder)
    values = params.model_dump(mode="json")
    if before is None:
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        with told(folder):
            write_atomic(folder / "params.yaml", text.encode())
    elif before != params:
        differing = _differences(before.model_dump(mode="json"), values)
        raise ParamsError(
            str(folder / "params.yaml"),
            [
                *(f"{path}: the campaign has {old!r}, not {new!r}" for path, old, new in differing),
                "a campaign keeps its params: choose another --name, or drop what differs",
            ],
        )


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Leaves that differ, as (dotted path, old, new)."""
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("dict[str, Any]", old), cast("dict[str, Any]", new)
        return [
            found
            for key in sorted({*before, *after})
            for found in _differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [(path, old, new)]


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """The campaign's lock: the kernel drops it with the process, so a kill never leaves it."""
    with told(folder), (folder / "lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().decode(errors="replace").strip() or "a process that just started"
            raise HeldError(
                f"campaign {name!r} is running already: {holder}\n"
                "  nothing was started here; wait for it or stop it, then run the same command"
            ) from None
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {since}".encode())
        lock.flush()
        yield
