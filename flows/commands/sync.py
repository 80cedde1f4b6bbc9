"""`afd sync`: what MLflow lacks of campaigns that do not run."""

from collections.abc import Iterator
from pathlib import Path

from afd.errors import UserError
from afd.store import Store
from flows.campaign_lock import CampaignRunningError, hold_campaign
from flows.command_text import command
from flows.commands.status import campaigns_in, known_campaign
from flows.last_command import read_last_command
from flows.mlflow_runs.client import Unavailable, without_password
from flows.mlflow_runs.facts import status_of
from flows.mlflow_runs.runs import CampaignRuns
from flows.paths import CampaignPaths


class AwayError(UserError):
    """MLflow does not answer."""


def synced(name: str | None, paths: CampaignPaths) -> Iterator[str]:
    """Record what MLflow lacks of one campaign, or of all; yield a line for each.

    Raises AwayError when MLflow does not answer, RefusedError for a campaign that is not there.
    """
    folders = campaigns_in(paths.runs) if name is None else [known_campaign(name, paths.runs)]
    if not folders:
        yield f"no campaign in {paths.runs}"
    for folder in folders:
        yield f"{folder.name}: {_sync(folder.resolve(), paths)}"


def _sync(folder: Path, paths: CampaignPaths) -> str:
    last = read_last_command(folder)
    uri = paths.tracking_uri(last.cluster.mlflow if last else None)
    store = Store(Path(last.store) if last else paths.store)
    try:
        with hold_campaign(folder, folder.name):
            runs = CampaignRuns(uri, folder, store)
            num_written = runs.sync(status=status_of(folder), again=True)
    except CampaignRunningError:
        return "it runs, and records itself"
    except Unavailable as error:
        again = command("sync", folder.name, runs=paths.runs)
        raise AwayError(
            f"MLflow at {without_password(uri)} does not answer: {error}\n"
            f"  nothing is lost: `{again}` records the rest when it does"
        ) from None
    if runs.writer.num_refused:
        return f"{num_written} recorded, {runs.writer.num_refused} refused (see above)"
    return f"{num_written} recorded" if num_written else "MLflow has everything"
