"""SLURM checks of `afd doctor --cluster`, each fault with its cure."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from afd.config import Cluster
from afd.config.cluster import Resourced, SlurmParams
from flows.jobs.batch import batch, sections
from flows.jobs.diagnosis import field_of
from flows.jobs.records import Job
from flows.jobs.scheduler import SLURM, SchedulerError
from flows.jobs.site import LATE_S, look_anew
from flows.jobs.slurm_answers import ENDED, submitted

if TYPE_CHECKING:
    from flows.jobs.sbatch import Sbatch

Verdict = Literal["ok", "warning", "missing"]
PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
KILL_WAIT_S = 10  # to write a checkpoint; SLURM's default is 30
PROBE_MIN = 2
PROBE_S = 90.0  # a busy queue may take longer: no verdict on the disk then
SKEW_S = 5.0
WORDS_TIMEOUT_S = 30


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    what: str
    verdict: Verdict
    text: str


def slurm_findings(cluster: Cluster, runs: Path, store: Path) -> Iterator[Finding]:
    """Check programs, controller, signals, accounting, sbatch and the shared disk."""
    slurm = cluster.slurm
    if slurm is None:
        return
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        text = f"{', '.join(absent)} not found: log in to a login node, or add SLURM's bin to PATH"
        yield Finding("slurm", "missing", text)
        return
    code, output = _words("scontrol", "show", "config")
    if code:
        why = _last(output)
        text = f"the controller does not answer ({why}): ask its admin, or look at SLURM_CONF"
        yield Finding("slurm", "missing", text)
        return
    config = dict(re.findall(r"^(\w+)[ \t]*=[ \t]*(.*?)[ \t]*$", output, flags=re.MULTILINE))
    yield Finding("slurm", "ok", f"SLURM {config.get('SLURM_VERSION', '?')} answers")
    yield from _signals(config, slurm)
    yield _accounting()
    taken = list(accepted(cluster))
    yield from taken
    if all(one.verdict == "ok" for one in taken):
        for what, folder in (("runs", runs), ("store", store)):
            yield from _shared(what, folder, cluster)


def _signals(config: dict[str, str], slurm: SlurmParams) -> Iterator[Finding]:
    if "OFF" not in config.get("PreemptMode", "OFF"):
        if "preempt_send_user_signal" in config.get("SlurmctldParameters", ""):
            yield Finding("preemption", "ok", "a preempted job is told to save its checkpoint")
        else:
            text = (
                "a preempted job is not told: it goes on from its last periodic checkpoint; ask "
                "the admin for SlurmctldParameters=preempt_send_user_signal"
            )
            yield Finding("preemption", "warning", text)
    number = re.match(r"\d+", config.get("KillWait", ""))
    wait = int(number.group()) if number else 30  # SLURM's own default
    verdict: Verdict = "ok" if wait >= KILL_WAIT_S else "warning"
    text = f"KillWait {wait} s; jobs are told {slurm.warn_s} s before their limit (slurm.warn_s)"
    if verdict == "warning":
        text += "; cancelled and preempted ones have too little time to save: ask the admin for "
        text += f"KillWait of {KILL_WAIT_S} s or more"
    yield Finding("signals", verdict, text)


def _accounting() -> Finding:
    code, output = _words("sacct", "-n", "-X", "-S", "now")
    if code == 0:
        return Finding("accounting", "ok", "sacct answers")
    text = (
        f"sacct does not answer ({_last(output)}): ends are read from exit codes on disk; for "
        "reasons that outlast squeue's memory ask the admin for slurmdbd "
        "(AccountingStorageType=accounting_storage/slurmdbd)"
    )
    return Finding("accounting", "warning", text)


def accepted(cluster: Cluster) -> Iterator[Finding]:
    """Check that sbatch takes the very script of every stage's job; nothing is submitted."""
    with tempfile.TemporaryDirectory() as folder:
        scripts: dict[str, list[Resourced]] = {}
        executors: dict[str, Sbatch] = {}
        for stage in _stages(cluster):
            slurm, resources = sections(cluster, stage)
            executor = batch(Path(folder), cluster, stage, "afd-probe", "afd-probe")
            if resources.num_parts > 1:
                executor.make_array(2, slurm.max_jobs)
            text = executor.text("true")
            scripts.setdefault(text, []).append(stage)
            executors[text] = executor
        refused = False
        words = ""
        for number, (text, stages) in enumerate(scripts.items()):
            script = Path(folder) / f"{number}.sh"
            script.write_text(text)
            try:
                answer = executors[text].run(script, "--test-only")
            except SchedulerError as error:
                yield Finding("sbatch", "missing", str(error))
                return
            output = answer.stdout + answer.stderr
            words = words or _last(output).removeprefix("sbatch: ")
            if answer.returncode:
                refused = True
                cure = _cure(output, stages[0])
                yield Finding("sbatch", "missing", f"{', '.join(stages)}: {_last(output)}: {cure}")
        if not refused:
            yield Finding("sbatch", "ok", words or "takes the job of every stage")


def _stages(cluster: Cluster) -> Iterator[Resourced]:
    """Yield what becomes a job: the stages, or the worker that computes them."""
    for stage in get_args(Resourced):
        if (stage == "worker") == (cluster.allocation != "stage"):
            yield stage


def _cure(output: str, stage: Resourced) -> str:
    """Return the cure for a job that sbatch refuses."""
    change = f"change {field_of(output, stage)}"
    if "node configuration is not available" not in output:
        return change
    return f"its nodes may be drained or down (`sinfo -R` says why): ask the admin, or {change}"


def _shared(what: str, folder: Path, cluster: Cluster) -> Iterator[Finding]:
    """Check with a probe job that node and head read each other's files, and compare clocks.

    It is the job of the first stage, setup and srun's flags included, with another command.
    """
    at = folder.resolve()
    made = not at.exists()
    token = f"afd-{uuid.uuid4().hex[:16]}"
    place = at / f".probe-{token}"
    place.mkdir(parents=True)
    question, answer, script = place / "question", place / "answer", place / "probe.sh"
    question.write_text(token)
    act = (
        f"test \"$(cat '{question}')\" = {token} && "
        f'printf \'{{"node": "%s", "at": %s}}\' "$(hostname)" "$(date +%s.%N)" '
        f"> '{answer}.part' && mv '{answer}.part' '{answer}'"
    )
    executor = batch(place, cluster, next(_stages(cluster)), "afd-probe", token)
    script.write_text(executor.text(f"sh -c {shlex.quote(act)}", time=PROBE_MIN))
    job = Job(job_id="", kind="slurm", token=token)
    before = time.time()
    try:
        sent = executor.run(script)
        numbers = submitted(sent.stdout)
        if sent.returncode or not numbers:
            text = f"{_last(sent.stdout + sent.stderr)}: the probe was not taken"
            yield Finding(f"{what} shared", "missing", text)
            return
        job = job.model_copy(update={"job_id": numbers[-1]})
        if SLURM.bears(job) is False:
            text = f"job {job.job_id} does not bear the comment it was given: ask the admin to keep"
            yield Finding("comment", "missing", f"{text} --comment, by which AFD knows its jobs")
            return
        yield from _answered(f"{what} shared", at, answer, job.job_id, before)
    except SchedulerError as error:
        yield Finding(f"{what} shared", "missing", str(error))
    finally:
        with contextlib.suppress(SchedulerError):
            SLURM.cancel([job])
        shutil.rmtree(place, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                at.rmdir()


def _answered(what: str, at: Path, answer: Path, job: str, before: float) -> Iterator[Finding]:
    deadline = time.monotonic() + PROBE_S
    while not answer.exists():
        _, state = _words("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T %r")
        word = state.partition(" ")[0].strip()
        may_have_written = word in ("", "COMPLETED")  # squeue has forgotten it, or it went well
        if word in ENDED - {"COMPLETED"} or (may_have_written and not _comes(answer)):
            log = "; ".join(_last(log.read_text()) for log in answer.parent.glob("*_log.out"))
            why = f" ({log})" if log else ""
            text = f"the probe job {job} ended and left nothing in {at}{why}: "
            text += "correct slurm.setup or srun_flags" if log else "choose a shared disk"
            yield Finding(what, "missing", text)
            return
        if time.monotonic() > deadline:
            yield Finding(what, "warning", f"the probe job {job} still waits ({state.strip()})")
            return
        time.sleep(0.3)
    after = time.time()
    probe = json.loads(answer.read_text())
    yield Finding(what, "ok", f"{at}: node {probe['node']} reads and writes what the head does")
    skew = max(before - float(probe["at"]), float(probe["at"]) - after, 0.0)
    if skew > SKEW_S:
        text = f"{probe['node']} is {skew:.0f} s off the head's clock: ask the admin for NTP"
        yield Finding("clock", "warning", text)
    else:
        yield Finding("clock", "ok", f"{probe['node']} and the head agree within {SKEW_S:.0f} s")


def _comes(answer: Path) -> bool:
    """Return whether a file that a node has written becomes visible here within LATE_S seconds."""
    deadline = time.monotonic() + LATE_S
    while not answer.exists() and time.monotonic() < deadline:
        look_anew(answer.parent)
        time.sleep(0.3)
    return answer.exists()


def _words(*command: str) -> tuple[int, str]:
    """Run a command; return its exit code and its output on both streams."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WORDS_TIMEOUT_S
        )
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not answer within {WORDS_TIMEOUT_S} s"
    return done.returncode, done.stdout + done.stderr


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
