"""`afd harvest`: clips of a paid teacher, planned, ordered, watched and settled by a person.

Everything that costs is in the store's ledger: any of these commands can be killed and typed again,
and a campaign on the same store finds the clips and pays for none of them.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from flows.command_text import RUNS, STORE
from flows.commands.exit_codes import ExitCode
from flows.commands.options import (
    DryRun,
    Overlays,
    Overrides,
    Runs,
    StoreFolder,
    examples,
    flag,
    group,
)

app = group(
    name="harvest",
    help="Clips of a paid or distant teacher: what they cost, ordering them, what became of them.",
    epilogue=examples(
        "afd harvest plan --params params/pocket.yaml \\",
        "  --overlay params/teachers/seedance.yaml",
        "afd harvest status                what became of the orders",
    ),
)
Name = Annotated[
    str,
    Parameter(
        name="--name",
        show_default=False,
        help="a campaign that was started, whose params are taken; default: those of --params",
    ),
]
ParamsFile = Annotated[Path | None, Parameter(name="--params", help="the whole campaign, as YAML")]
Limit = Annotated[
    int | None,
    Parameter(name="--limit", help="only the first N clips: a pilot", validator=Number(gte=1)),
]
Permitted = Annotated[str, Parameter(help="training_permitted: yes, no or unknown")]
TermsUrl = Annotated[str, Parameter(help="where the terms of use were read: https://...")]
TermsDate = Annotated[str, Parameter(help="when they were read: 2026-11-23")]
Keys = Annotated[
    list[str],
    Parameter(help="orders, by 6 or more digits of a key, or all of a state: failed_final"),
]
NEW = "harvest"  # no campaign of this name needs to exist


@app.command(
    help_epilogue=examples(
        "afd harvest plan --params params/pocket.yaml \\",
        "  --overlay params/teachers/veo.yaml --limit 3",
    )
)
def plan(
    name: Name = NEW,
    *,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    limit: Limit = None,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
) -> None:
    """Print clips, cost, expected hours and what the store has already; nothing is sent."""
    from flows.commands.orders import Chosen, show_plan

    show_plan(Chosen.read(name, params, overlay, set_, runs, store, limit))


@app.command(
    help_epilogue=examples(
        "afd harvest run --params params/pocket.yaml \\",
        "  --overlay params/teachers/veo.yaml --limit 3",
    )
)
def run(
    name: Name = NEW,
    *,
    params: ParamsFile = None,
    overlay: Overlays = (),
    set_: Overrides = (),
    limit: Limit = None,
    runs: Runs = RUNS,
    store: StoreFolder = STORE,
    dry_run: DryRun = False,
) -> int:
    """Order the clips that are missing; it can be stopped and typed again at any time."""
    from flows.commands.orders import Chosen, check_orders, run_orders

    if dry_run:
        check_orders(Chosen.read(name, params, overlay, set_, runs, store, limit, writes=False))
        return ExitCode.DONE
    return run_orders(Chosen.read(name, params, overlay, set_, runs, store, limit))


@app.command(help_epilogue=examples("afd harvest status"))
def status(*, store: StoreFolder = STORE) -> None:
    """Print orders by state, money, refusals by category, and what needs a person."""
    from flows.commands.orders import show_status

    show_status(store)


@app.command(
    help_epilogue=examples(
        "afd harvest resolve 5f2c9a01 --never-created",
        "afd harvest resolve failed_final --again",
    )
)
def resolve(
    keys: Keys,
    *,
    created: Annotated[
        str | None,
        Parameter(help="of one ambiguous order: the provider has it, under this task id"),
    ] = None,
    never_created: Annotated[
        bool, flag("of ambiguous orders: the provider has no such task; they are sent again")
    ] = False,
    again: Annotated[
        bool, flag("of orders that ended without a clip: order (and pay) once more")
    ] = False,
    lost: Annotated[
        bool,
        flag(
            "of verified orders whose clip is gone for good, and of finished ones that the "
            "provider shows no more: order once more"
        ),
    ] = False,
    store: StoreFolder = STORE,
) -> None:
    """Record what only a person can know of orders, by the provider's own console."""
    from flows.commands.orders import resolve_orders

    resolve_orders(keys, created, store, never_created=never_created, again=again, lost=lost)


@app.command(help_epilogue=examples("afd harvest verify", "afd harvest verify --mend"))
def verify(
    *,
    store: StoreFolder = STORE,
    revalidate: Annotated[
        bool, flag("inspect the quarantine anew: what is sound by now goes to the clips")
    ] = False,
    mend: Annotated[
        bool, flag("write missing and broken notes anew, from packs, shards and the ledger")
    ] = False,
) -> int:
    """Check that every clip, note and shard is whole and is what was stored."""
    from flows.commands.keeping import verify_store

    return verify_store(store, revalidate=revalidate, mend=mend)


@app.command(
    name="import",
    help_epilogue=examples(
        "afd harvest import clips/ --name mine --permitted yes \\",
        "  --terms-url https://example.org/terms --terms-date 2026-11-23 \\",
        "  --prompts mine.jsonl --overlay mine.yaml",
    ),
)
def import_(
    folder: Annotated[Path, Parameter(help="mp4 files with captions (docs/teachers.md)")],
    *,
    name: Annotated[str, Parameter(name="--name", help="what a campaign's teacher.name says")],
    permitted: Permitted,
    terms_url: TermsUrl,
    terms_date: TermsDate,
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
    store: StoreFolder = STORE,
) -> None:
    """Copy a folder of finished videos with captions into the store."""
    from flows.commands.keeping import Importing, import_videos

    terms = {"url": terms_url, "date": terms_date}
    import_videos(Importing(folder, name, permitted, terms, prompts, held_out, overlay), store)


@app.command(
    help_epilogue=examples(
        "afd harvest permit folder/mine --permitted yes \\",
        "  --terms-url https://example.org/terms --terms-date 2026-11-23",
    )
)
def permit(
    source: Annotated[str, Parameter(help="provider/model, or folder/NAME")],
    *,
    permitted: Permitted,
    terms_url: TermsUrl,
    terms_date: TermsDate,
    store: StoreFolder = STORE,
) -> None:
    """Record what the terms of a source allow, for all its clips that the store has."""
    from flows.commands.keeping import permit_training

    permit_training(source, permitted, {"url": terms_url, "date": terms_date}, store)


@app.command(help_epilogue=examples("afd harvest pack", "afd harvest pack --unpack"))
def pack(
    *,
    clips_per_shard: Annotated[
        int, Parameter(validator=Number(gte=1), help="clips of one tar file")
    ] = 1000,
    unpack: Annotated[bool, flag("from packs back into clips/")] = False,
    store: StoreFolder = STORE,
) -> None:
    """Copy all paid clips into a few tar shards with tables, for DVC and for copying."""
    from flows.commands.keeping import pack_store

    pack_store(clips_per_shard, store, unpack=unpack)
