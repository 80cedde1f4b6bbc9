"""The ledger: one row an order, written before its POST, moved only along `transitions`.

Whatever two processes do to one store, a row has one owner, a POST leaves only after its row was
claimed on the disk, and reservations are made in the transaction that claims.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from afd.clips.requests import ClipRequest, TeacherSpec, order_key
from afd.harvest import owners
from afd.harvest.owners import Owner
from afd.harvest.rows import COLUMNS, Money, Row
from afd.harvest.tables import (
    LedgerError,
    connect,
    ledger_path,
    savepoint,
    told,
    transaction,
)
from afd.harvest.transitions import AT_VENDOR, ENDS, OWNED, OrderState, after

Claim = Literal["claimed", "taken", "no_slot", "no_budget"]
MAX_REASON = 500  # characters of a vendor's text that are kept
# Of these ends money may still be asked for: what was reserved stays reserved.
_RESERVED: tuple[OrderState, ...] = ("stalled",)


class TaskTakenError(ValueError):
    """A vendor gave two orders one task."""


class LostOrderError(RuntimeError):
    """Somebody else took this order over: whoever worked on it lets go."""


_MOVABLE = {
    "vendor_state", "reason", "task_id", "poll_url", "owner", "reserved", "spent",
    "returned_seed", "facts", "submitted_at",
}  # fmt: skip


class Ledger:
    """One process's hold on the ledger of a store. Use it as a context: it lets go at the end.

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
        """One commit for everything inside; each of its writes stays whole or undone by itself."""
        with told(self.path), transaction(self._db):
            self._is_together = True
            try:
                yield
            finally:
                self._is_together = False

    @property
    def is_rolled_back(self) -> bool:
        """Inside `together`: sqlite has undone all of it (a full disk)."""
        return not self._db.in_transaction

    @contextmanager
    def _write(self) -> Iterator[None]:
        with told(self.path), savepoint(self._db) if self._is_together else transaction(self._db):
            yield

    # ---------------------------------------------------------------- who works

    def begin_work(self) -> None:
        """Become an owner: one that lives, to other processes."""
        self.owner = Owner.new()
        with self._write():
            owners.register(self._db, self.owner)

    def take_over(self, asked: TeacherSpec) -> list[Row]:
        """Open orders of dead owners, and those that nobody owns, become this process's: which.

        Nobody is also an owner that no table knows. What of them may have been sent without an
        answer becomes ambiguous.
        """
        mine = self._me
        self.beat()
        where = "provider = ? AND model = ? AND state IN (%s)"
        these = (asked.provider, asked.model)
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
        """Let go of everything: what may have been sent without an answer becomes ambiguous."""
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
        """Say that this process lives."""
        if self.owner is not None:
            with self._write():
                owners.beat(self._db, self.owner)

    @property
    def _me(self) -> str:
        if self.owner is None:
            raise LedgerError(f"{self.path}: begin_work comes first")
        return self.owner.id

    # ---------------------------------------------------------------- what is to be done

    def plan(self, asked: TeacherSpec, wanted: Iterable[tuple[ClipRequest, int]]) -> int:
        """Rows for these (want, attempt), where there are none; gives how many are new."""
        now = time.time()
        with self._write():
            number = self._asked(asked)
            rows = [
                (
                    order_key(want.slot, attempt, seeded=asked.seeded),
                    want.slot, attempt, number, asked.provider, asked.model,
                    want.prompt, want.prompt_id, want.category, want.sample, now,
                )
                for want, attempt in wanted
            ]  # fmt: skip
            rows.sort()  # by key: pages are written in their order, in half the time
            return self._db.executemany(_PLAN, rows).rowcount

    def claim(self, key: str, reserve: int, cap: int, in_flight: int) -> tuple[Claim, Row]:
        """Take a planned order to submit it now: its row is on the disk when this returns.

        `reserve` and `cap` are micro-dollars of the provider, `in_flight` orders of its model.
        """
        with self._write():
            row = self._row(key)
            if row.state != "planned":
                return "taken", row
            if self.owner is not None:  # to others it lives from here on, whatever they took it for
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

    def move(self, key: str, to: OrderState, *, by_hand: bool = False, **told_now: Any) -> Row:
        """An order's next state, and what is known with it (columns of `Row`).

        Only the owner moves an owned order; `by_hand` (a person, a listing) only one without owner.
        Raises TransitionError where an end would regress, LostOrderError where it is another's.
        """
        unknown = told_now.keys() - _MOVABLE
        if unknown:
            raise TypeError(f"not columns that a move may change: {sorted(unknown)}")
        with self._write():
            row = self._row(key)
            if row.owner != (None if by_hand else self._me):
                raise LostOrderError(f"order {key[:12]} is worked on by another process")
            state = after(row.state, to)
            changed = told_now | {"state": state}
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
                    f"the vendor named the task {told_now.get('task_id')}, which is another order's"
                ) from None
            return self._row(key)

    def name_again(self, key: str, task_id: str, reserved: int) -> Row:
        """An order whose task a person had named wrongly, back at the vendor under another id.

        No move along `transitions`: what became of the other task was never this order's. Raises
        LostOrderError where it is worked on, TaskTakenError.
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

    def unname(self, key: str) -> Row:
        """An order whose task a person had named and the vendor does not know, to be sent.

        No move along `transitions`: it never had that task. Raises LostOrderError where it is
        worked on.
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

    # ---------------------------------------------------------------- what there is

    def standing(self, asked: TeacherSpec) -> dict[str, tuple[int, OrderState]]:
        """slot -> the last attempt and its state, of everything asked in these very words."""
        with told(self.path):
            rows = self._db.execute(
                "SELECT slot, attempt, state FROM orders WHERE asked = "
                "(SELECT id FROM asked WHERE digest = ?) ORDER BY slot, attempt",
                (asked.digest,),
            )
            return {row["slot"]: (row["attempt"], row["state"]) for row in rows}

    def row(self, key: str) -> Row:
        """One order. Raises LedgerError where there is none."""
        with told(self.path):
            return self._row(key)

    def rows(self, where: str, values: Sequence[Any] = ()) -> list[Row]:
        """Orders by a condition of this package's own making (never of a vendor's or a user's)."""
        with told(self.path):
            found = self._db.execute(f"SELECT {COLUMNS} FROM orders WHERE {where}", values)
            return [Row(*row) for row in found]

    def of_provider(self, asked: TeacherSpec, states: Sequence[OrderState]) -> list[Row]:
        """Orders of this provider and model in one of `states`."""
        where = f"provider = ? AND model = ? AND state IN ({_marks(states)})"
        return self.rows(where, (asked.provider, asked.model, *states))

    def asked(self, number: int) -> TeacherSpec:
        """What was asked, by a row's `asked`."""
        with told(self.path):
            found = self._db.execute("SELECT content FROM asked WHERE id = ?", (number,)).fetchone()
        content = json.loads(found["content"])
        size = content["size"]
        return TeacherSpec(**(content | {"size": tuple(size) if size else None}))

    def task_ids(self, asked: TeacherSpec) -> set[str]:
        """Ids of the tasks that orders of this provider have."""
        with told(self.path):
            found = self._db.execute(
                "SELECT task_id FROM orders WHERE provider = ? AND task_id IS NOT NULL",
                (asked.provider,),
            )
            return {task_id for (task_id,) in found}

    def money(self, provider: str) -> Money:
        """Spent and reserved over the whole store."""
        with told(self.path):
            found = self._db.execute(
                "SELECT spent, reserved FROM totals WHERE provider = ?", (provider,)
            ).fetchone()
        return Money(found["spent"], found["reserved"]) if found else Money(0, 0)

    def spent_on(self, slots: Iterable[str]) -> int:
        """Micro-dollars that all attempts at these wants have cost."""
        with told(self.path):
            paid = [
                self._db.execute("SELECT sum(spent) FROM orders WHERE slot = ?", (slot,)).fetchone()
                for slot in slots
            ]
        return sum(spent or 0 for (spent,) in paid)

    def add_delivered(self, asked: TeacherSpec, want: ClipRequest, facts: str) -> None:
        """A clip that nobody had to order: a verified row, without cost (an imported folder)."""
        now = time.time()
        key = order_key(want.slot, 0, seeded=asked.seeded)
        row = (
            key, want.slot, 0, self._asked(asked), asked.provider, asked.model,
            want.prompt, want.prompt_id, want.category, want.sample, now,
        )  # fmt: skip
        with self._write():
            self._db.execute(_PLAN, row)
            self._db.execute(
                "UPDATE orders SET state = 'verified', facts = ?, finished_at = ? "
                "WHERE key = ? AND state = 'planned'",
                (facts, now, key),
            )

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read-only questions of this package (afd/harvest/status.py)."""
        with told(self.path):
            return [dict(row) for row in self._db.execute(sql, values)]

    # ---------------------------------------------------------------- inside a transaction

    def _row(self, key: str) -> Row:
        found = self._db.execute(f"SELECT {COLUMNS} FROM orders WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise LedgerError(f"{self.path}: no order {key[:12]}; see `afd harvest status`")
        return Row(*found)

    def _asked(self, asked: TeacherSpec) -> int:
        content = {name: getattr(asked, name) for name in asked.__slots__}
        self._db.execute(
            "INSERT OR IGNORE INTO asked (digest, provider, model, content) VALUES (?, ?, ?, ?)",
            (asked.digest, asked.provider, asked.model, json.dumps(content)),
        )
        found = self._db.execute("SELECT id FROM asked WHERE digest = ?", (asked.digest,))
        return int(found.fetchone()["id"])


_PLAN = """
INSERT OR IGNORE INTO orders (key, slot, attempt, asked, provider, model, prompt, prompt_id,
    category, sample, planned_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned')
"""
_MAY_HAVE_BEEN_SENT = "its process ended between the ledger and the answer"


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
