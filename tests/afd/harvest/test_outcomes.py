"""Every way a vendor can answer ends in the row that it should, over real sockets; others go on."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from afd.clips import quarantine
from afd.clips.requests import teacher_spec
from afd.config import RemoteTeacher
from afd.harvest import poll, resolve
from afd.harvest.budget import to_micro_usd
from afd.harvest.context import incoming
from afd.harvest.engine import Engine
from afd.harvest.gather import paused_error, stop_message
from afd.harvest.ledger import Ledger
from afd.harvest.order import OrderRow, ProviderMoney
from afd.harvest.progress import HarvestProgress
from afd.harvest.provenance import differences
from afd.harvest.run import harvest
from afd.harvest.status import refusals
from afd.harvest.submit import MAX_IN_A_ROW
from afd.store import Store
from afd.teachers.vendors.protocol import ListingTeacher, Task
from flows.commands.orders import Chosen, run_orders
from tests.afd.harvest.ordering import (
    KEY,
    KEY_VARIABLE,
    PRICE_USD,
    begun,
    ended,
    harvested,
    num_kept,
    rows,
    states,
    teacher_at,
    wants_of,
)
from tests.harvest_server.script import Fate, Rule, Script
from tests.harvest_server.server import Server

PROMPTS = ("a red ball", "a green ball", "a blue ball", "a grey ball")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def script(*rules: Rule, fates: tuple[Fate, ...] = (), **changes: object) -> Script:
    base = {"job_s": 0.05, "film": "constant", "key": KEY} | changes
    return Script(**base, rules=rules, fates=fates)  # type: ignore[arg-type]


RED = "red"
HTML = "<!DOCTYPE html><html>Sign in</html>"
ENDS = {
    "refused_input": Fate(RED, ends="refused_input"),
    "refused_output": Fate(RED, ends="no_videos"),
    "failed_final": Fate(RED, ends="failed"),
    "expired": Fate(RED, ends="expired"),
    "cancelled": Fate(RED, ends="cancelled"),
}


@pytest.mark.parametrize("state", ENDS)
def test_an_end_that_is_no_clip_is_a_row_and_the_others_go_on(tmp_path: Path, state: str) -> None:
    with Server("ark", script(fates=(ENDS[state],))) as server:
        done, store = harvested(teacher_at(server), tmp_path, *PROMPTS)
        assert done.stop is None
        harvested(teacher_at(server), tmp_path, *PROMPTS)  # asked again: nothing is sent again
        assert len(server.book.posts) == len(PROMPTS)
    assert states(store) == {state: 1, "verified": 3}
    row = rows(store)["a red ball"]
    assert row.state == state and row.reserved == 0 and row.finished_at


def test_what_only_passes_by_leaves_no_trace_but_a_second_try(tmp_path: Path) -> None:
    """429, 503 and no connection: surely nothing was created, so asking again pays once."""
    rules = (
        Rule("create", status=429, headers={"Retry-After": "0"}),
        Rule("create", prompt="green", status=503),
        Rule("poll", prompt=RED, status=500),
        Rule("poll", prompt="green", do="reset_before"),
        Rule("download", prompt="blue", status=503),
        Rule("download", prompt="grey", do="half"),
    )
    with Server("ark", script(*rules)) as server:
        done, store = harvested(teacher_at(server), tmp_path, *PROMPTS)
        assert done.stop is None and set(server.jobs().values()) == {1}
    assert states(store) == {"verified": len(PROMPTS)}


def test_a_lost_answer_is_found_in_the_list_or_never_sent_again(tmp_path: Path) -> None:
    lost = script(Rule("create", "reset_after", prompt=RED))
    with Server("openai_videos", lost) as server:
        teacher = teacher_at(server)
        _, store = harvested(teacher, tmp_path / "listed", *PROMPTS)
        assert states(store) == {"ambiguous": 1, "verified": 3}
        harvested(teacher, tmp_path / "listed", *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}
    with Server("veo", lost) as server:
        teacher = teacher_at(server, seeded=False)
        for _ in range(2):
            _, store = harvested(teacher, tmp_path / "unlisted", *PROMPTS)
            assert states(store) == {"ambiguous": 1, "verified": 3}
        row = rows(store)["a red ball"]
        task = next(job.id for job in server.book.jobs.values() if RED in job.asked.prompt)
        with Ledger(store.root) as ledger:
            found = resolve.find(ledger, row.key[:8])
            resolve.created(ledger, found, f"models/film-1/operations/{task}")
        harvested(teacher, tmp_path / "unlisted", *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}


@pytest.mark.parametrize("is_polled", [False, True])
@pytest.mark.parametrize("provider", ["veo", "ark", "fal"])
def test_a_task_that_a_person_mistyped_is_named_again_and_nothing_is_paid_twice(
    tmp_path: Path, provider: str, is_polled: bool
) -> None:
    with Server(provider, script(Rule("create", "reset_after", prompt=RED))) as server:
        teacher = teacher_at(server, seeded=provider != "veo")
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        task = next(job.id for job in server.book.jobs.values() if RED in job.asked.prompt)
        task = task if provider != "veo" else f"models/film-1/operations/{task}"
        mistyped, key = task[:-1] + ("0" if task[-1] != "0" else "1"), rows(store)["a red ball"].key

        def name(what: str) -> None:
            with Ledger(store.root) as ledger:
                resolve.created(ledger, ledger.row(key), what)

        with pytest.raises(resolve.ResolveError, match="no task id"):
            name("the one with the ball")
        name(f" {mistyped}\n")
        money = _money(store)
        if is_polled:
            done, _ = harvested(teacher, tmp_path, *PROMPTS)
            assert done.stop is None
            row = rows(store)["a red ball"]
            assert row.state == "stalled" and f"resolve {key[:12]} --created" in str(row.reason)
        name(task)
        assert _money(store) == money  # reserved as it was
        harvested(teacher, tmp_path, *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}
        with pytest.raises(resolve.ResolveError, match="is verified"):
            name(mistyped)
        with Ledger(store.root) as ledger:  # whose task nobody named by hand
            other = rows(store)["a blue ball"]
            with pytest.raises(resolve.ResolveError, match="is verified"):
                resolve.created(ledger, other, mistyped)


def test_a_vendor_that_stumbles_says_nothing_about_a_task_that_a_person_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MAX_ABSENT", 1)
    with Server("veo", script(Rule("create", "reset_after", prompt=RED))) as server:
        teacher = teacher_at(server, seeded=False)
        _, store = harvested(teacher, tmp_path, RED)
        (task,) = server.book.jobs
        with Ledger(store.root) as ledger:
            found = resolve.find(ledger, rows(store)[RED].key)
            resolve.created(ledger, found, f"models/film-1/operations/{task}")
        server.rewrite(script(Rule("poll", status=500)))
        assert harvest(teacher, store, wants_of(teacher, RED)).stop is None
    assert states(store) == {"verified": 1}


def _undelivered(server: Server, root: Path) -> tuple[RemoteTeacher, Store]:
    """An order that is finished and paid, and whose clip could not be fetched yet."""
    server.rewrite(script(fates=(Fate(RED, url="https://cdn.example.com/film.mp4"),)))
    teacher = teacher_at(server)
    _, store = harvested(teacher, root, *PROMPTS)
    assert states(store) == {"succeeded": 1, "verified": 3}
    next(job for job in server.book.jobs.values() if RED in job.asked.prompt).fate = Fate()
    return teacher, store


def test_a_paid_order_outlives_a_vendor_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MAX_SILENT_POLLS", 2)
    with Server("ark") as server:
        teacher, store = _undelivered(server, tmp_path)
        for silent in (
            Rule("poll", "reset_before", times=None),
            Rule("poll", status=503, times=None),
        ):
            server.rewrite(script(silent))
            done = harvest(teacher, store, wants_of(teacher, *PROMPTS))
            assert done.stop and done.stop.reason == "no_connection" and done.stop.is_hard
            assert states(store) == {"succeeded": 1, "verified": 3}
        server.rewrite(script())
        assert harvest(teacher, store, wants_of(teacher, *PROMPTS)).stop is None
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}


@pytest.mark.parametrize("said", ["404", "queued", "running", "meditating", "expired", "failed"])
def test_a_paid_order_ends_without_its_clip_only_where_the_vendor_says_so(
    tmp_path: Path, said: str
) -> None:
    with Server("ark") as server:
        teacher, store = _undelivered(server, tmp_path)
        if said == "404":  # of another key, or another address
            server.rewrite(script(Rule("poll", status=404, body="{}", times=None)))
        else:
            job = next(job for job in server.book.jobs.values() if RED in job.asked.prompt)
            job.fate = Fate(states=(said,))
            server.rewrite(script())
        assert harvest(teacher, store, wants_of(teacher, *PROMPTS)).stop is None
        row = rows(store)["a red ball"]
        if said in ("expired", "failed"):
            assert row.state == "expired_unrecoverable"
            return
        assert row.state == "succeeded" and f"resolve {row.key[:12]} --lost" in str(row.reason)
        with Ledger(store.root) as ledger:
            resolve.lost(store, ledger, row)
        server.rewrite(script())
        harvest(teacher, store, wants_of(teacher, *PROMPTS))
        assert states(store) == {"verified": 4} and len(server.book.posts) == 5


def test_one_task_that_is_never_answered_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll, "MAX_SILENT_POLLS", 2)
    with Server("ark", script(Rule("poll", prompt=RED, status=500, times=None))) as server:
        done, store = harvested(teacher_at(server, deadline_min=0.01), tmp_path, *PROMPTS)
    assert done.stop is None and states(store) == {"stalled": 1, "verified": 3}


def test_what_was_fetched_before_a_kill_needs_no_vendor_any_more(tmp_path: Path) -> None:
    with Server("ark", script()) as server:
        teacher, store = teacher_at(server), Store(tmp_path)
        requests = wants_of(teacher, RED)
        assert ended(begun(teacher, store, requests, AFD_FAILPOINT="harvest.fetched:1")) == -9
        assert states(store) == {"succeeded": 1}
        for job in server.book.jobs.values():
            job.fate = Fate(ends="expired")
        assert harvest(teacher, store, requests).stop is None
    assert states(store) == {"verified": 1} and num_kept(store) == 1


def test_half_of_a_file_in_its_place_is_not_taken_for_the_delivery(tmp_path: Path) -> None:
    with Server("ark", script()) as server:
        teacher, store = teacher_at(server), Store(tmp_path)
        requests = wants_of(teacher, RED)
        assert ended(begun(teacher, store, requests, AFD_FAILPOINT="harvest.fetched:1")) == -9
        (fetched,) = incoming(store).glob("*.mp4")
        fetched.write_bytes(fetched.read_bytes()[:100])
        assert harvest(teacher, store, requests).stop is None
    assert states(store) == {"verified": 1}


def test_a_vendor_that_asks_for_short_pauses_is_given_longer_ones(tmp_path: Path) -> None:
    busy = Rule("create", status=429, headers={"Retry-After": "0"}, times=2)
    with Server("ark", script(busy)) as server:
        started = time.monotonic()
        done, store = harvested(teacher_at(server, in_flight=1), tmp_path, RED)
        assert done.stop is None and states(store) == {"verified": 1}
        assert time.monotonic() - started >= 3.0  # 1 s, then 2 s


def test_videos_of_no_use_one_after_another_stop_the_spending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_IN_A_ROW, "quarantined", 2)
    page = Rule("download", body=HTML, times=None)
    with Server("ark", script(page)) as server:
        teacher = teacher_at(server, in_flight=1)
        done, store = harvested(teacher, tmp_path, *(f"ball {n}" for n in range(40)))
        assert done.stop and done.stop.reason == "quarantined" and not done.stop.is_hard
        assert "on_mismatch" in stop_message(done.stop, teacher)
        found = states(store)  # what was on its way is finished
        assert found["quarantined"] >= 2 and found["planned"] >= 20
        assert found["quarantined"] + found["planned"] == 40


def test_a_model_that_was_ordered_without_a_version_may_have_any(tmp_path: Path) -> None:
    with Server("replicate", script()) as server:
        teacher = teacher_at(server, on_mismatch="quarantine")
        _, store = harvested(teacher, tmp_path, *PROMPTS)
    assert states(store) == {"verified": 4}
    facts = json.loads(str(rows(store)["a red ball"].facts))
    assert facts["ran_model"] == "owner/film:hidden"
    exact = replace(teacher_spec(teacher), model="owner/film:v1")
    assert differences(exact, facts) == ["ran the model owner/film:hidden, asked owner/film:v1"]
    assert differences(replace(exact, model="owner/fil"), facts)


def test_a_clip_of_a_later_attempt_is_found_though_another_ledger_stands_here(
    tmp_path: Path,
) -> None:
    with Server("ark", script(fates=(Fate(RED, ends="no_videos"),))) as server:
        harvested(teacher_at(server), tmp_path, RED)
        server.rewrite(script())
        harvested(teacher_at(server, num_retries=1), tmp_path, RED)
        assert states(Store(tmp_path)) == {"verified": 1} and len(server.book.posts) == 2
        shutil.rmtree(tmp_path / "harvest")  # an older backup is put back: it knows other orders
        harvested(teacher_at(server), tmp_path, "a green ball")
        done, _ = harvested(teacher_at(server), tmp_path, RED)
        assert done.live.num_in_store == 1 and len(server.book.posts) == 3


def _money(store: Store) -> ProviderMoney:
    with Ledger(store.root) as ledger:
        (provider,) = {row.provider for row in ledger.rows("1")}
        return ledger.money(provider)


def test_a_person_who_knows_better_may_have_it_sent_again(tmp_path: Path) -> None:
    with Server("veo", script(Rule("create", "reset_before", prompt=RED))) as server:
        teacher = teacher_at(server, seeded=False)
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        with Ledger(store.root) as ledger:
            resolve.never_created(ledger, resolve.find(ledger, rows(store)["a red ball"].key))
        harvested(teacher, tmp_path, *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.jobs().values()) == {1}


def test_replies_that_get_lost_one_after_another_stop_the_spending(tmp_path: Path) -> None:
    with Server("veo", script(Rule("create", "reset_after", times=None))) as server:
        done, store = harvested(
            teacher_at(server, seeded=False, in_flight=1), tmp_path, *map(str, range(12))
        )
        assert done.stop and done.stop.reason == "lost_replies"
        assert len(server.book.posts) == 3 and states(store) == {"ambiguous": 3, "planned": 9}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_everything_at_once_and_is_not_told(
    tmp_path: Path, status: int
) -> None:
    rules = (Rule("poll", status=status, body=json.dumps({"error": {"message": KEY}}), times=None),)
    with Server("ark", script(*rules)) as server:
        teacher = teacher_at(server, in_flight=2)
        done, store = harvested(teacher, tmp_path, *PROMPTS)
        assert done.stop and done.stop.reason == "unauthorised" and done.stop.is_hard
        assert len(server.book.posts) <= 2
        told = stop_message(done.stop, teacher)
        assert KEY not in told and KEY_VARIABLE in told
        server.rewrite(script())
        assert harvest(teacher, store, wants_of(teacher, *PROMPTS)).stop is None
        assert set(server.posts().values()) == {1}
    assert states(store) == {"verified": 4}


def test_without_credit_nothing_new_is_sent_and_the_paid_ones_are_finished(tmp_path: Path) -> None:
    rules = (Rule("create", skip=2, status=402, times=None),)
    with Server("replicate", script(*rules, job_s=0.5)) as server:
        done, store = harvested(teacher_at(server, in_flight=2), tmp_path, *PROMPTS)
        assert done.stop and done.stop.reason == "out_of_credit"
        assert states(store) == {"verified": 2, "planned": 2}


def test_a_vendor_that_rejects_everything_is_not_asked_a_thousand_times(tmp_path: Path) -> None:
    body = json.dumps({"error": {"message": "unknown parameter fps"}})
    with Server("ark", script(Rule("create", status=400, body=body, times=None))) as server:
        done, store = harvested(teacher_at(server, in_flight=1), tmp_path, *map(str, range(30)))
        assert done.stop and done.stop.reason == "rejected"
        assert states(store) == {"failed_final": 10, "planned": 20}
        assert "unknown parameter fps" in str(rows(store)["0"].reason)


def test_a_task_without_end_frees_its_slot_and_is_looked_at_again(tmp_path: Path) -> None:
    stuck = Fate(RED, states=("queued",))
    with Server("ark", script(fates=(stuck,))) as server:
        teacher = teacher_at(server, in_flight=1, deadline_min=0.01)
        done, store = harvested(teacher, tmp_path, *PROMPTS)
        assert done.stop is None
        assert states(store) == {"stalled": 1, "verified": 3}
        row = rows(store)["a red ball"]
        assert row.task_id and row.reserved == to_micro_usd(PRICE_USD)  # it may still be billed
        job = next(job for job in server.book.jobs.values() if RED in job.asked.prompt)
        job.fate = Fate(RED)
        harvested(teacher, tmp_path, *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}


def test_words_that_nobody_knows_are_kept_until_the_task_ends(tmp_path: Path) -> None:
    odd = Fate(RED, states=("dreaming", "dreaming", "succeeded"))
    with Server("ark", script(fates=(odd,))) as server:
        seen: list[dict[str, int]] = []
        teacher, store = teacher_at(server), Store(tmp_path)
        harvest(
            teacher,
            store,
            wants_of(teacher, *PROMPTS),
            on_change=lambda live: seen.append(dict(live.states)),
        )
    assert states(store) == {"verified": 4}


def test_a_url_that_is_over_is_asked_for_once_more(tmp_path: Path) -> None:
    once = Rule("download", prompt=RED, status=403)
    ever = Rule("download", prompt="green", status=404, times=None)
    with Server("ark", script(once, ever)) as server:
        _, store = harvested(teacher_at(server), tmp_path, *PROMPTS)
    assert states(store) == {"verified": 3, "expired_unrecoverable": 1}
    lost = rows(store)["a green ball"]
    assert lost.state == "expired_unrecoverable" and lost.spent == to_micro_usd(PRICE_USD)


def test_what_is_no_video_or_not_what_was_asked_is_put_aside_with_its_reason(
    tmp_path: Path,
) -> None:
    page = Rule(
        "download", prompt=RED, status=200, body=HTML, headers={"Content-Type": "video/mp4"}
    )
    other = Fate("green", fps=8, num_frames=8)
    with Server("ark", script(page, fates=(other,))) as server:
        teacher = teacher_at(server, on_mismatch="quarantine")
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        kept = rows(store)
        assert kept["a red ball"].state == kept["a green ball"].state == "quarantined"
        assert "8 fps, asked 16" in str(kept["a green ball"].reason)
        aside = {entry.provenance[0]["prompt"]: entry for entry in quarantine.entries(store)}
        assert "DOCTYPE" in aside["a red ball"].first_bytes
        assert aside["a green ball"].provenance[0]["cost_usd"] == PRICE_USD
        # The same delivery under the other policy is taken, and the difference written down.
        _, lax = harvested(teacher_at(server), tmp_path / "lax", "a green ball, too")
        assert num_kept(lax) == 1
        facts = json.loads(str(rows(lax)["a green ball, too"].facts))
        assert facts["policy"] == "resample" and "8 fps" in facts["differs"][0]


def test_a_refused_output_is_tried_again_as_another_order_where_params_say_so(
    tmp_path: Path,
) -> None:
    with Server("ark", script(fates=(Fate(RED, ends="no_videos"),))) as server:
        teacher = teacher_at(server, num_retries=2)
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        seeds = [seed for prompt, seed in server.posts() if RED in prompt]
        assert len(seeds) == len(set(seeds)) == 3  # another seed each time
    with Ledger(store.root) as ledger:
        (told,) = refusals(ledger, "ark", teacher.model)
    assert (told.num_refused_output, told.num_answered) == (3, 6)


def test_the_budget_is_never_exceeded_and_can_be_raised(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Server("ark", script(job_s=0.3)) as server:
        cap = 2.5 * PRICE_USD
        teacher = teacher_at(server, budget_usd=cap)
        done = harvest(teacher, store, wants_of(teacher, *PROMPTS))
        assert done.stop and done.stop.reason == "budget" and len(server.jobs()) == 2
        assert "budget_usd 0.03 USD" in done.stop.text or "0.02" in done.stop.text
        richer = teacher_at(server, budget_usd=5.0)  # circumstance: the same orders
        assert harvest(richer, store, wants_of(richer, *PROMPTS)).stop is None
        assert set(server.posts().values()) == {1} and len(server.posts()) == 4


def test_what_the_vendor_bills_is_what_was_spent(tmp_path: Path) -> None:
    price = {"usd_per_million_tokens": 2.0, "tokens_per_clip": 200_000, "date": "2026-11-23"}
    with Server("ark", script()) as server:
        _, store = harvested(teacher_at(server, price=price), tmp_path, *PROMPTS)
    for row in rows(store).values():
        tokens = json.loads(str(row.facts))["usage"]["tokens"]
        assert row.spent == to_micro_usd(2.0 * tokens / 1e6)
    with Ledger(store.root) as ledger:
        money = ledger.money("ark")
    assert money.reserved == 0 and money.spent == sum(row.spent for row in rows(store).values())


def test_the_same_want_twice_is_one_order(tmp_path: Path) -> None:
    with Server("ark", script()) as server:
        done, _ = harvested(teacher_at(server), tmp_path, "a red ball", "a red ball")
        assert len(server.book.posts) == 1 and done.live.num_wanted == 1


def test_nobody_is_asked_when_the_key_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    with Server("ark", script()) as server:
        done, store = harvested(teacher_at(server), tmp_path, *PROMPTS)
        assert done.stop and KEY_VARIABLE in done.stop.text and not server.book.requests
    assert states(store) == {"planned": 4}


def test_a_vendor_that_names_one_task_twice_loses_nobodys_money(tmp_path: Path) -> None:
    same = Rule("create", "work_then_answer", body=json.dumps({"id": "job-1"}), times=2)
    with Server("ark", script(same)) as server:
        teacher = teacher_at(server, in_flight=1, deadline_min=0.005)
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        assert len(server.book.posts) == 4
    told = states(store)  # one of the two has the task, and polls it; the other is in doubt
    assert told["verified"] == 2 and told["ambiguous"] == 1


def test_a_paid_clip_at_a_host_that_params_do_not_name_waits_for_one_that_does(
    tmp_path: Path,
) -> None:
    elsewhere = Fate("ball", url="https://cdn.example.com/film.mp4")
    with Server("ark", script(fates=(elsewhere,))) as server:
        teacher = teacher_at(server, in_flight=2)
        done, store = harvested(teacher, tmp_path, *PROMPTS)
        assert done.stop and done.stop.reason == "forbidden_host"
        assert "cdn.example.com" in stop_message(done.stop, teacher)
        assert states(store)["succeeded"] >= 3
        for job in server.book.jobs.values():
            job.fate = Fate()
        server.rewrite(script())
        harvested(teacher, tmp_path, *PROMPTS)
        assert states(store) == {"verified": 4} and set(server.posts().values()) == {1}


def test_the_ledger_may_be_lost_as_long_as_the_clips_stand(tmp_path: Path) -> None:
    with Server("ark", script()) as server:
        harvested(teacher_at(server), tmp_path, *PROMPTS)
        shutil.rmtree(tmp_path / "harvest")
        done, _ = harvested(teacher_at(server), tmp_path, *PROMPTS)
        assert done.live.num_in_store == 4 and len(server.book.posts) == 4


def test_a_vendor_that_cannot_be_reached_is_tried_again_and_then_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAX_IN_A_ROW, "no_connection", 2)  # two waves of four, not four failures
    with Server("ark", script()) as server:
        port, server.port = server.port, 9
        away = teacher_at(server)
        server.port = port
        told: list[str] = []
        requests = wants_of(away, *PROMPTS)
        store = Store(tmp_path)
        done = harvest(away, store, requests, on_change=lambda live: told.append(live.news))
        assert done.stop and done.stop.reason == "no_connection" and not server.book.requests
        assert away.access.base_url in stop_message(done.stop, away)
        assert any("next try in 1 s" in news for news in told)
        assert states(store) == {"planned": 4}
        assert harvest(teacher_at(server), store, requests).stop is None
    assert states(store) == {"verified": 4}


def test_all_orders_of_a_state_are_settled_at_once(tmp_path: Path) -> None:
    with Server("ark", script(Rule("create", status=400, times=2))) as server:
        teacher = teacher_at(server)
        _, store = harvested(teacher, tmp_path, *PROMPTS)
        assert states(store) == {"failed_final": 2, "verified": 2}
        with Ledger(store.root) as ledger:
            for row in resolve.find_all(ledger, "failed_final"):
                resolve.again(ledger, row)
            assert not resolve.find_all(ledger, "failed_final")  # they have a later attempt
        harvested(teacher, tmp_path, *PROMPTS)
    assert states(store) == {"verified": 4}


def test_an_order_that_another_run_has_found_first_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = script(Rule("create", "reset_after", prompt=RED))
    with Server("openai_videos", lost) as server, Ledger(tmp_path) as other:
        teacher = teacher_at(server)
        _, store = harvested(teacher, tmp_path, *PROMPTS[:2])
        key, found = rows(store)["a red ball"].key, Engine._found
        other.begin_work()

        async def found_by_both(self: Engine, vendor: ListingTeacher, row: OrderRow) -> Task | None:
            task = await found(self, vendor, row)
            assert task is not None
            other.move(row.key, "submitted", by_hand=True, task_id=task.id)
            return task

        def finish(live: HarvestProgress) -> None:
            if live.num_wanted and other.row(key).state == "submitted":
                other.move(key, "cancelled")

        monkeypatch.setattr(Engine, "_found", found_by_both)
        requests = wants_of(teacher, *PROMPTS)
        assert harvest(teacher, store, requests, on_change=finish).stop is None
        assert states(store) == {"cancelled": 1, "verified": 3}
        other.end_work()


@pytest.mark.parametrize("cure", [resolve.never_created, resolve.again])
def test_a_task_that_was_named_and_never_was_holds_no_money(
    tmp_path: Path, cure: Callable[[Ledger, OrderRow], OrderRow]
) -> None:
    with Server("ark", script(Rule("create", "reset_before", prompt=RED))) as server:
        teacher = teacher_at(server)
        _, store = harvested(teacher, tmp_path, *PROMPTS[:2])
        key = rows(store)["a red ball"].key
        with Ledger(store.root) as ledger:
            resolve.created(ledger, ledger.row(key), "cgt-typed-wrongly")
            with pytest.raises(resolve.ResolveError, match="is submitted"):
                resolve.never_created(ledger, ledger.row(key))
        harvested(teacher, tmp_path, *PROMPTS[:2])
        assert states(store)["stalled"] == 1 and _money(store).reserved == to_micro_usd(PRICE_USD)
        with Ledger(store.root) as ledger:
            cure(ledger, ledger.row(key))
        assert _money(store).reserved == 0
        harvested(teacher, tmp_path, *PROMPTS[:2])
        assert states(store) == {"verified": 2} and set(server.jobs().values()) == {1}
        assert _money(store) == ProviderMoney(2 * to_micro_usd(PRICE_USD), 0)


def test_a_stop_does_not_hide_that_a_clip_is_gone(tmp_path: Path) -> None:
    with Server("ark", script()) as server:
        teacher = teacher_at(server, budget_usd=2.5 * PRICE_USD)
        _, store = harvested(teacher, tmp_path, *PROMPTS[:2])
        next(store.clips.glob("*/*.mp4")).unlink()
        done, _ = harvested(teacher, tmp_path, *PROMPTS)
    assert done.stop and done.stop.reason == "budget" and done.live.missing == 1
    told = str(paused_error(done.stop, teacher, store, done.live.missing))
    assert "budget_usd" in told and "1 clips that were paid" in told


def test_a_film_longer_than_ordered_is_booked_by_its_own_length(tmp_path: Path) -> None:
    """A model with a default length of its own bills that length; fal reports no usage."""
    by_second = {"usd_per_second": 0.1, "date": "2026-12-01"}
    with Server("fal", script(fates=(Fate(num_frames=32),))) as server:
        _, store = harvested(teacher_at(server, price=by_second), tmp_path, "a red ball")
    row = rows(store)["a red ball"]
    assert row.state == "verified"
    assert row.spent == to_micro_usd(0.2)  # 2 s for the 1 s that was ordered


@pytest.mark.parametrize("verb", ["create", "poll"])
def test_a_vendor_that_asks_for_a_day_is_left_at_once_with_its_own_time(
    tmp_path: Path, verb: Literal["create", "poll"]
) -> None:
    busy = Rule(verb, status=429, headers={"Retry-After": "86400"}, times=None)
    with Server("ark", script(busy)) as server:
        done, store = harvested(teacher_at(server), tmp_path, *PROMPTS[:1])
        assert done.stop is not None and done.stop.reason == "asked_to_wait"
        assert "asks to wait 86400 s (24 h), until 20" in done.stop.text
    # Nothing was created: it is sent later. A paid task waits in the ledger.
    assert states(store) == {"planned" if verb == "create" else "submitted": 1}
    with Server("ark", script()) as server:
        again = paused_error(done.stop, teacher_at(server), store, 0)
    assert again.reason == "asked_to_wait" and "wait until then" in str(again)


def test_an_answer_that_nobody_understands_stays_with_its_order_without_secrets(
    tmp_path: Path,
) -> None:
    odd = {"mood": "odd", "echo": KEY, "film": "https://cdn.example/x.mp4?Signature=CANARY"}
    fates = (
        Fate(RED, states=("dreaming",), extra=odd),
        Fate("green", states=("queued",), extra=odd | {"status": None}),
    )
    with Server("ark", script(fates=fates)) as server:
        _, store = harvested(teacher_at(server, deadline_min=0.01), tmp_path, *PROMPTS)
    for prompt, word in (("a red ball", "dreaming"), ("a green ball", "no state")):
        row = rows(store)[prompt]
        kept = json.loads(row.facts or "{}")[poll.ANSWER]
        assert row.state == "stalled" and f"last said {word}; its answer: " in str(row.reason)
        assert '"mood": "odd"' in kept and '"mood": "odd"' in str(row.reason)
        assert KEY not in kept and "CANARY" not in kept and "***" in kept
    lost = Rule("create", prompt=RED, status=200, body='{"mood": "odd", "task": null}')
    with Server("ark", script(lost)) as server:
        _, store = harvested(teacher_at(server), tmp_path / "lost", "a red ball")
    row = rows(store)["a red ball"]
    assert row.state == "ambiguous" and 'its answer: {"mood": "odd", "task": null}' in str(
        row.reason
    )


@pytest.mark.parametrize(
    ("rule", "code"), [(Rule("create", "reset_after", prompt=RED), 1), (Rule("poll"), 0)]
)
def test_a_run_with_an_order_that_may_be_paid_and_open_is_not_done(
    tmp_path: Path, rule: Rule, code: int
) -> None:
    with Server("veo", script(rule)) as server:
        teacher, store = teacher_at(server, seeded=False), Store(tmp_path / "store")
        params: Any = None
        chosen = Chosen(params, teacher, store, wants_of(teacher, *PROMPTS))
        assert run_orders(chosen) == code
