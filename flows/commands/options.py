"""Options that several commands share: one name, one meaning, one help text."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

Name = Annotated[str, Parameter(name="--name", help="the campaign: a folder below --runs")]
MaybeName = Annotated[
    str | None, Parameter(name="--name", help="the campaign; needed where there are several")
]
ParamsFile = Annotated[
    Path | None,
    Parameter(name="--params", help="the whole campaign, as YAML; not needed to go on with one"),
]
Overlays = Annotated[
    tuple[Path, ...],
    Parameter(
        name="--overlay",
        help="YAML laid over --params, e.g. params/ablations/bce.yaml; may be repeated",
        negative="",
        show_default=False,
    ),
]
Overrides = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        help="one value over all files: dotted.field=value, e.g. fit.num_steps=4; may be repeated",
        negative="",
        show_default=False,
    ),
]
ClusterFile = Annotated[
    Path, Parameter(name="--cluster", help="where stages run, as YAML: params/cluster/*.yaml")
]
ClusterOverrides = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set-cluster",
        help="one value over the cluster's file: field=value; may be repeated",
        negative="",
        show_default=False,
    ),
]
Runs = Annotated[Path, Parameter(name="--runs", help="the folder of campaigns")]
StoreFolder = Annotated[Path, Parameter(name="--store", help="the folder of artifacts")]
WithPrefect = Annotated[
    bool, Parameter(name="--prefect", help="run as flows that Prefect's server shows")
]

Json = Annotated[
    bool,
    Parameter(
        name="--json",
        negative="",
        show_default=False,
        help="print one JSON document instead; its keys are in docs/cli.md",
    ),
]
DryRun = Annotated[
    bool,
    Parameter(
        name="--dry-run",
        negative="",
        show_default=False,
        help="check everything and print what would be done; start and write nothing",
    ),
]


def flag(text: str) -> Parameter:
    """Return the parameter of a switch that is off unless typed."""
    return Parameter(negative="", show_default=False, help=text)


def examples(*lines: str) -> str:
    """Return the last lines of a command's help: commands as they are typed."""
    return "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def group(name: str | None = None, help: str | None = None, epilogue: str | None = None) -> App:
    """Return an empty group of commands, with the conventions of all of them."""
    return App(
        name=name,
        help=help,
        help_format="plaintext",  # markdown would cost 0.1 s of imports
        help_epilogue=epilogue,
        default_parameter=Parameter(negative_iterable=()),
    )
