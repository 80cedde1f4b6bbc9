"""`afd sync`: what MLflow lacks of campaigns that do not run."""

from collections.abc import Iterator
from pathlib import Path

from afd.store import Store
from flows.asked import read_asked
from flows.commands.status import campaigns_in, known_campaign
from flows.hold import HeldError, hold
from flows.invocation import command
from flows.mlflow_runs.client import Unavailable, without_password
from flows.mlflow_runs.facts import status_of
from flows.mlflow_runs.runs import CampaignRuns
from flows.places import Places
from flows.told import ToldError


class AwayError(ToldError):
    """MLflow does not answer."""


def synced(name: str | None, places: Places) -> Iterator[str]:
    """Record what MLflow lacks of one campaign, or of all; yield a line for each.

    Raises AwayError when MLflow does not answer, RefusedError for a campaign that is not there.
    """
    folders = campaigns_in(places.runs) if name is None else [known_campaign(name, places.runs)]
    if not folders:
        yield f"no campaign in {places.runs}"
    for folder in folders:
        yield f"{folder.name}: {_sync(folder.resolve(), places)}"


def _sync(folder: Path, places: Places) -> str:
    asked = read_asked(folder)
    uri = places.tracking_uri(asked.cluster.mlflow if asked else None)
    store = Store(Path(asked.store) if asked else places.store)
    try:
        with hold(folder, folder.name):
            runs = CampaignRuns(uri, folder, store)
            num_written = runs.sync(status=status_of(folder), again=True)
    except HeldError:
        return "it runs, and records itself"
    except Unavailable as error:
        again = command("sync", folder.name, runs=places.runs)
        raise AwayError(
            f"MLflow at {without_password(uri)} does not answer: {error}\n"
            f"  nothing is lost: `{again}` records the rest when it does"
        ) from None
    if runs.tree.num_refused:
        return f"{num_written} recorded, {runs.tree.num_refused} refused (see above)"
    return f"{num_written} recorded" if num_written else "MLflow has everything"
