"""`afd params`: schema, reference and resolved values of params files."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.commands.options import Json, Overlays, Overrides, examples, group

app = group(
    name="params",
    help="Params files: their schema for editors, and what is in force where they are combined.",
    epilogue=examples(
        "afd params show params/pocket.yaml --overlay params/ablations/bce.yaml",
        "afd params schema -o params.schema.json",
    ),
)
Output = Annotated[
    Path | None, Parameter(name=("--output", "-o"), help="the file to write; default: stdout")
]


@app.command(
    help_epilogue=examples(
        "afd params show params/pocket.yaml",
        "afd params show params/pocket.yaml --set update.beta=0.2 --json",
        "afd params show params/cluster/slurm.yaml",
    )
)
def show(
    params: Annotated[
        Path, Parameter(name="--params", help="a campaign's params, or a cluster's file, as YAML")
    ],
    *,
    overlay: Overlays = (),
    set_: Overrides = (),
    json: Json = False,
) -> None:
    """Print every value with its source: file, overlay, --set or default.

    What a campaign would be refused for is refused here.
    """
    from flows.commands.params_files import print_params

    print_params(params, overlay, set_, as_json=json)


@app.command(
    help_epilogue=examples("afd params schema -o params/schema.json", "afd params schema cluster")
)
def schema(
    of: Annotated[
        Literal["params", "overlay", "cluster"],
        Parameter(help="a campaign, an overlay over one, or a cluster"),
    ] = "params",
    *,
    output: Output = None,
) -> None:
    """Print the JSON Schema of params, for editors and checks."""
    from flows.commands.params_files import print_schema

    print_schema(of, output)


@app.command(help_epilogue=examples("afd params reference -o docs/params.md"))
def reference(*, output: Output = None) -> None:
    """Print the reference of every field, in Markdown."""
    from flows.commands.params_files import print_reference

    print_reference(output)
