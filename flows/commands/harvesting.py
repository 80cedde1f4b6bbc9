"""`afd harvest`: clips of a paid teacher, planned, ordered, watched and settled by a person.

Everything that costs is in the store's ledger: any of these commands can be killed and typed again,
and a campaign on the same store finds the clips and pays for none of them.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from flows.invocation import RUNS, STORE

app = App(
    name="harvest",
    help="Clips of a paid or distant teacher: what they cost, ordering them, what became of them.",
    help_format="plaintext",
)
Name = Annotated[str, Parameter(name="--name", help="a campaign that was started: its params")]
ParamsFile = Annotated[Path | None, Parameter(name="--params", help="the whole campaign, as YAML")]
Overlays = Annotated[
    tuple[Path, ...],
    Parameter(name="--overlay", help="YAML laid over it: params/teachers/*.yaml", negative=""),
]
Overrides = Annotated[
    tuple[str, ...], Parameter(name="--set", help="dotted.field=value", negative="")
]
Limit = Annotated[
    int | None,
    Parameter(name="--limit", help="only the first N clips: a pilot", validator=Number(gte=1)),
]
Permitted = Annotated[str, Parameter(help="training_permitted: yes, no or unknown")]
Keys = Annotated[
    list[str],
    Parameter(help="orders, by 6 or more digits of a key, or all of a state: failed_final"),
]
NEW = "harvest"  # no campaign of this name needs to exist


@app.command
def plan(
    *,
    name: Name = NEW,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    limit: Limit = None,
    runs: Path = RUNS,
    store: Path = STORE,
) -> None:
    """Clips, cost, expected hours and what the store has already; nothing is sent."""
    from flows.commands.orders import Chosen, show_plan

    show_plan(Chosen.read(name, params, overlay, set_, runs, store, limit))


@app.command
def run(
    *,
    name: Name = NEW,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    limit: Limit = None,
    runs: Path = RUNS,
    store: Path = STORE,
) -> None:
    """Order what is missing, with live progress; stop it and type it again at any time."""
    from flows.commands.orders import Chosen, run_orders

    run_orders(Chosen.read(name, params, overlay, set_, runs, store, limit))


@app.command
def status(*, store: Path = STORE) -> None:
    """The ledger: orders by state, money, refusals by category, what needs a person."""
    from flows.commands.orders import show_status

    show_status(store)


@app.command
def resolve(
    keys: Keys,
    *,
    created: str | None = None,
    never_created: Annotated[bool, Parameter(negative="")] = False,
    again: Annotated[bool, Parameter(negative="")] = False,
    lost: Annotated[bool, Parameter(negative="")] = False,
    store: Path = STORE,
) -> None:
    """Say what only a person can know of orders, by the provider's own console.

    Parameters
    ----------
    created
        of one ambiguous order: the provider has it, under this task id
    never_created
        of ambiguous orders: the provider has no such task; they are sent again
    again
        of orders that ended without a clip: order them once more (and pay once more)
    lost
        of verified orders whose clip is gone for good, and of finished ones that the provider
        shows no more: order them once more
    """
    from flows.commands.orders import settle

    settle(keys, created, store, never_created=never_created, again=again, lost=lost)


@app.command
def verify(*, store: Path = STORE, revalidate: bool = False, mend: bool = False) -> int:
    """Every clip, note and shard: whole, and what was stored?

    Parameters
    ----------
    revalidate
        judge the quarantine anew: what is sound by now goes to the clips
    mend
        write missing and broken notes anew, from packs, shards and the ledger
    """
    from flows.commands.keeping import verify_store

    return verify_store(store, revalidate=revalidate, mend=mend)


@app.command(name="import")
def import_(
    folder: Path,
    *,
    name: Annotated[str, Parameter(name="--name", help="what a campaign's teacher.name says")],
    permitted: Permitted,
    terms_url: str,
    terms_date: str,
    prompts: Annotated[
        Path | None, Parameter(help="write the captions as a prompts file of a campaign")
    ] = None,
    held_out: Annotated[
        int | None,
        Parameter(help="so many captions are held out, by hash (default: a fifth of them)"),
    ] = None,
    overlay: Annotated[
        Path | None, Parameter(help="write an overlay: this teacher, with its prompts")
    ] = None,
    store: Path = STORE,
) -> None:
    """A folder of finished videos with captions into the store; the folder stays as it is."""
    from flows.commands.keeping import Importing, import_videos

    terms = {"url": terms_url, "date": terms_date}
    import_videos(Importing(folder, name, permitted, terms, prompts, held_out, overlay), store)


@app.command
def permit(
    source: Annotated[str, Parameter(help="provider/model, or folder/NAME")],
    *,
    permitted: Permitted,
    terms_url: str,
    terms_date: str,
    store: Path = STORE,
) -> None:
    """Say what the terms of a source allow, of all its clips that the store has."""
    from flows.commands.keeping import permit_training

    permit_training(source, permitted, {"url": terms_url, "date": terms_date}, store)


@app.command
def pack(
    *,
    clips_per_shard: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
    unpack: Annotated[bool, Parameter(help="from packs back into clips/", negative="")] = False,
    store: Path = STORE,
) -> None:
    """All paid clips as a few tar shards with tables, for DVC and for copying; nothing is moved."""
    from flows.commands.keeping import pack_store

    pack_store(clips_per_shard, store, unpack=unpack)
