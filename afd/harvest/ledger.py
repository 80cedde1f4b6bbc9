"""The ledger: one row per order, written before its POST, moved only along `states`.

With several processes on one store a row still has one owner, a POST leaves only after its row was
claimed on the disk, and the claim's transaction makes the reservation.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from afd.clips.requests import ClipRequest, TeacherSpec, order_key
from afd.errors import InputError
from afd.harvest import owners
from afd.harvest.order import COLUMNS, OrderRow, ProviderMoney
from afd.harvest.owners import Harvester, Owner
from afd.harvest.schema import (
    LedgerError,
    connect,
    ledger_errors,
    ledger_path,
    savepoint,
    transaction,
)
from afd.harvest.states import AT_VENDOR, ENDS, OWNED, OrderState, next_state

Claim = Literal["claimed", "taken", "no_slot", "no_budget"]
MAX_REASON = 500  # characters of a vendor's text
# The vendor may still bill these ends: their reservation stays.
_RESERVED: tuple[OrderState, ...] = ("stalled",)


class TaskTakenError(InputError):
    """A vendor gave two orders one task."""


class LostOrderError(RuntimeError):
    """Another process has taken this order over."""


_MOVABLE = {
    "vendor_state", "reason", "task_id", "poll_url", "owner", "reserved", "spent",
    "returned_seed", "facts", "submitted_at",
}  # fmt: skip


class Ledger:
    """One process's connection to the ledger of a store. Use it as a context.

    Errors of all methods: LedgerError for the file, TransitionError and LostOrderError.
    """

    def __init__(self, root: Path) -> None:
        self.path = ledger_path(root)
        self._db = connect(self.path)
        self.owner: Owner | None = None
        self._is_together = False

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self.owner is not None:  # `end_work` could not be written down
            self.owner.end()
        self._db.close()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Commit all writes inside together; each write is complete or undone by itself."""
        with ledger_errors(self.path), transaction(self._db):
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False

    @property
    def is_rolled_back(self) -> bool:
        """True inside `together` if sqlite has undone all of it (a full disk)."""
        return not self._db.in_transaction

    @contextmanager
    def _write(self) -> Iterator[None]:
        with (
            ledger_errors(self.path),
            savepoint(self._db) if self._is_together else transaction(self._db),
        ):
            yield

    # ---------------------------------------------------------------- owners

    def begin_work(self) -> None:
        """Register this process as an owner."""
        self.owner = Owner.new()
        with self._write():
            owners.register(self._db, self.owner)

    def enter(self, provider: str) -> Harvester | None:
        """Become the one harvester of a provider; return the living one if there is another.

        `end_work` ends it, and so does the death of the process.
        """
        if self.owner is None:
            raise LedgerError(f"{self.path}: begin_work comes first")
        with self._write():
            return owners.enter(self._db, provider, self.owner)

    def take_over(self, spec: TeacherSpec) -> list[OrderRow]:
        """Take open orders of dead owners and orders without an owner; return them.

        An owner that the table lacks counts as dead. Orders that may have been sent without an
        answer become ambiguous.
        """
        mine = self._me
        self.beat()
        where = "provider = ? AND model = ? AND state IN (%s)"
        these = (spec.provider, spec.model)
        with self._write():
            gone = owners.dead(self._db)
            nobody = (
                f"(owner IS NULL OR owner IN ({_marks(gone)}) "
                "OR owner NOT IN (SELECT id FROM owners))"
            )
            self._db.execute(
                "UPDATE orders SET state = 'ambiguous', owner = NULL, reason = ? WHERE "
                + f"{where % '?'} AND {nobody}",
                (_MAY_HAVE_BEEN_SENT, *these, "submitting", *gone),
            )
            open_where = f"{where % _marks(OWNED)} AND {nobody}"
            values = (*these, *OWNED, *gone)
            keys = [row.key for row in self.rows(open_where, values)]
            self._db.execute(f"UPDATE orders SET owner = ? WHERE {open_where}", (mine, *values))
            self._db.execute(
                f"DELETE FROM owners WHERE id IN ({_marks(gone)}) AND NOT EXISTS "
                "(SELECT 1 FROM orders WHERE orders.owner = owners.id)",
                gone,
            )
            return [self._row(key) for key in keys]

    def end_work(self) -> None:
        """Release all orders; those that may have been sent without an answer become ambiguous."""
        mine = self._me
        if self.owner is not None:
            self.owner.end()
        with self._write():
            self._db.execute(
                "UPDATE orders SET state = 'ambiguous', reason = ? WHERE owner = ? "
                "AND state = 'submitting'",
                (_MAY_HAVE_BEEN_SENT, mine),
            )
            self._db.execute("UPDATE orders SET owner = NULL WHERE owner = ?", (mine,))
            self._db.execute("DELETE FROM owners WHERE id = ?", (mine,))
        self.owner = None

    def beat(self) -> None:
        """Renew the heartbeat of this process."""
        if self.owner is not None:
            with self._write():
                owners.beat(self._db, self.owner)

    @property
    def _me(self) -> str:
        if self.owner is None:
            raise LedgerError(f"{self.path}: begin_work comes first")
        return self.owner.id

    # ---------------------------------------------------------------- writes

    def plan(self, spec: TeacherSpec, attempts: Iterable[tuple[ClipRequest, int]]) -> int:
        """Insert rows for these (request, attempt) if absent; return the number of new rows."""
        now = time.time()
        with self._write():
            number = self._spec_id(spec)
            rows = [
                (
                    order_key(request.request_id, attempt, seeded=spec.seeded),
                    request.request_id, attempt, number, spec.provider, spec.model,
                    request.prompt, request.prompt_id, request.category, request.sample, now,
                )
                for request, attempt in attempts
            ]  # fmt: skip
            rows.sort()  # by key: pages are written in their order, in half the time
            return self._db.executemany(_PLAN, rows).rowcount

    def claim(self, key: str, reserve: int, cap: int, in_flight: int) -> tuple[Claim, OrderRow]:
        """Claim a planned order to submit it now; its row is on the disk at the return.

        `reserve` and `cap` are micro-dollars of the provider, `in_flight` orders of its model.
        """
        with self._write():
            row = self._row(key)
            if row.state != "planned":
                return "taken", row
            if self.owner is not None:  # others may have taken it for dead
                owners.beat(self._db, self.owner)
            (at_vendor,) = self._db.execute(
                "SELECT count(*) FROM orders WHERE provider = ? AND model = ? "
                f"AND state IN ({_marks(AT_VENDOR)})",
                (row.provider, row.model, *AT_VENDOR),
            ).fetchone()
            if at_vendor >= in_flight:
                return "no_slot", row
            money = self.money(row.provider)
            if money.spent + money.reserved + reserve > cap:
                return "no_budget", row
            self._db.execute(
                "UPDATE orders SET state = 'submitting', owner = ?, reserved = ? WHERE key = ?",
                (self._me, reserve, key),
            )
            return "claimed", self._row(key)

    def move(self, key: str, to: OrderState, *, by_hand: bool = False, **columns: Any) -> OrderRow:
        """Write an order's next state and the `columns` that change with it; return the row.

        Only the owner moves an owned order; `by_hand` (a person, a listing) only one without owner.
        Raises TransitionError if an end would regress, LostOrderError if another owns the order.
        """
        unknown = columns.keys() - _MOVABLE
        if unknown:
            raise TypeError(f"not columns that a move may change: {sorted(unknown)}")
        with self._write():
            row = self._row(key)
            if row.owner != (None if by_hand else self._me):
                raise LostOrderError(f"order {key[:12]} is worked on by another process")
            state = next_state(row.state, to)
            changed = columns | {"state": state}
            if reason := changed.get("reason"):
                changed["reason"] = str(reason)[:MAX_REASON]
            if state not in OWNED:
                changed["owner"] = None
            elif by_hand and self.owner is not None:
                owners.beat(self._db, self.owner)
                changed["owner"] = self.owner.id
            if state == "planned" or (state in ENDS and state not in _RESERVED):
                changed["reserved"] = 0
            if state in ENDS and state != row.state:
                changed["finished_at"] = time.time()
            sets = ", ".join(f"{name} = ?" for name in changed)
            try:
                self._db.execute(
                    f"UPDATE orders SET {sets} WHERE key = ?", (*changed.values(), key)
                )
            except sqlite3.IntegrityError:
                raise TaskTakenError(
                    f"the vendor named the task {columns.get('task_id')}, which is another order's"
                ) from None
            return self._row(key)

    def name_again(self, key: str, task_id: str, reserved: int) -> OrderRow:
        """Replace a wrong task id that a person gave; the order is submitted again.

        This is no move along `states`: the other task was never this order's. Raises
        LostOrderError if a process works on it, TaskTakenError.
        """
        with self._write():
            if self._row(key).owner is not None:
                raise LostOrderError(f"order {key[:12]} is worked on; stop the harvest first")
            try:
                self._db.execute(
                    "UPDATE orders SET state = 'submitted', task_id = ?, poll_url = NULL, "
                    "vendor_state = NULL, reserved = ?, spent = 0, submitted_at = ?, "
                    "finished_at = NULL, reason = 'a person named its task again' WHERE key = ?",
                    (task_id, reserved, time.time(), key),
                )
            except sqlite3.IntegrityError:
                raise TaskTakenError(f"the task {task_id} is another order's") from None
            return self._row(key)

    def unname(self, key: str) -> OrderRow:
        """Remove a task id that a person gave and the vendor does not find; plan the order anew.

        This is no move along `states`: the order never had that task. Raises LostOrderError if a
        process works on it.
        """
        with self._write():
            if self._row(key).owner is not None:
                raise LostOrderError(f"order {key[:12]} is worked on; stop the harvest first")
            self._db.execute(
                "UPDATE orders SET state = 'planned', task_id = NULL, poll_url = NULL, "
                "vendor_state = NULL, reserved = 0, spent = 0, submitted_at = NULL, facts = NULL, "
                "finished_at = NULL, reason = 'a person found that it was never created' "
                "WHERE key = ?",
                (key,),
            )
            return self._row(key)

    # ---------------------------------------------------------------- reads

    def last_attempts(self, spec: TeacherSpec) -> dict[str, tuple[int, OrderState]]:
        """Return request_id -> (last attempt, its state) of all orders with this spec."""
        with ledger_errors(self.path):
            rows = self._db.execute(
                "SELECT slot, attempt, state FROM orders WHERE asked = "
                "(SELECT id FROM asked WHERE digest = ?) ORDER BY slot, attempt",
                (spec.digest,),
            )
            return {row["slot"]: (row["attempt"], row["state"]) for row in rows}

    def row(self, key: str) -> OrderRow:
        """Return one order. Raises LedgerError if there is none."""
        with ledger_errors(self.path):
            return self._row(key)

    def rows(self, where: str, values: Sequence[Any] = ()) -> list[OrderRow]:
        """Return orders by an SQL condition of this package (never of a vendor or a user)."""
        with ledger_errors(self.path):
            found = self._db.execute(f"SELECT {COLUMNS} FROM orders WHERE {where}", values)
            return [OrderRow(*row) for row in found]

    def of_provider(self, spec: TeacherSpec, states: Sequence[OrderState]) -> list[OrderRow]:
        """Return the orders of this provider and model in one of `states`."""
        where = f"provider = ? AND model = ? AND state IN ({_marks(states)})"
        return self.rows(where, (spec.provider, spec.model, *states))

    def spec(self, number: int) -> TeacherSpec:
        """Return a teacher's spec by a row's `spec_id`."""
        with ledger_errors(self.path):
            found = self._db.execute("SELECT content FROM asked WHERE id = ?", (number,)).fetchone()
        content = json.loads(found["content"])
        size = content["size"]
        return TeacherSpec(**(content | {"size": tuple(size) if size else None}))

    def task_ids(self, spec: TeacherSpec) -> set[str]:
        """Return the task ids of all orders of this provider."""
        with ledger_errors(self.path):
            found = self._db.execute(
                "SELECT task_id FROM orders WHERE provider = ? AND task_id IS NOT NULL",
                (spec.provider,),
            )
            return {task_id for (task_id,) in found}

    def money(self, provider: str) -> ProviderMoney:
        """Return the money spent and reserved at a provider over the whole store."""
        with ledger_errors(self.path):
            found = self._db.execute(
                "SELECT spent, reserved FROM totals WHERE provider = ?", (provider,)
            ).fetchone()
        return ProviderMoney(found["spent"], found["reserved"]) if found else ProviderMoney(0, 0)

    def spent_on(self, request_ids: Iterable[str]) -> int:
        """Return the cost of all attempts of these requests in micro-dollars."""
        with ledger_errors(self.path):
            paid = [
                self._db.execute(
                    "SELECT sum(spent) FROM orders WHERE slot = ?", (request_id,)
                ).fetchone()
                for request_id in request_ids
            ]
        return sum(spent or 0 for (spent,) in paid)

    def add_delivered(self, spec: TeacherSpec, request: ClipRequest, facts: str) -> None:
        """Insert a verified row without cost for an imported clip."""
        now = time.time()
        key = order_key(request.request_id, 0, seeded=spec.seeded)
        row = (
            key, request.request_id, 0, self._spec_id(spec), spec.provider, spec.model,
            request.prompt, request.prompt_id, request.category, request.sample, now,
        )  # fmt: skip
        with self._write():
            self._db.execute(_PLAN, row)
            self._db.execute(
                "UPDATE orders SET state = 'verified', facts = ?, finished_at = ? "
                "WHERE key = ? AND state = 'planned'",
                (facts, now, key),
            )

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Run a read-only query of this package (afd/harvest/status.py)."""
        with ledger_errors(self.path):
            return [dict(row) for row in self._db.execute(sql, values)]

    # ---------------------------------------------------------------- inside a transaction

    def _row(self, key: str) -> OrderRow:
        found = self._db.execute(f"SELECT {COLUMNS} FROM orders WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise LedgerError(f"{self.path}: no order {key[:12]}; see `afd harvest status`")
        return OrderRow(*found)

    def _spec_id(self, spec: TeacherSpec) -> int:
        content = {name: getattr(spec, name) for name in spec.__slots__}
        self._db.execute(
            "INSERT OR IGNORE INTO asked (digest, provider, model, content) VALUES (?, ?, ?, ?)",
            (spec.digest, spec.provider, spec.model, json.dumps(content)),
        )
        found = self._db.execute("SELECT id FROM asked WHERE digest = ?", (spec.digest,))
        return int(found.fetchone()["id"])


_PLAN = """
INSERT OR IGNORE INTO orders (key, slot, attempt, asked, provider, model, prompt, prompt_id,
    category, sample, planned_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned')
"""
_MAY_HAVE_BEEN_SENT = "its process ended between the ledger and the answer"


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
