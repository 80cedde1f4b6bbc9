"""`afd`: the command line. Nothing heavy is imported before a command is chosen."""

import os
import sys
from typing import Annotated

from cyclopts import App, Parameter

from flows.commands import campaigns, results, services
from flows.commands.options import examples


def _version() -> str:
    from afd.version import version_text

    return f"afd {version_text()}"


app = App(
    name="afd",
    help="On-Policy Adversarial Flow Distillation: a teacher that shows only finished videos "
    "teaches a causal, few-step video student. -v: also the lines of DVC, MLflow and Prefect.",
    help_epilogue=examples(
        "afd plan params/pocket.yaml       work, memory, hours and cost of a campaign",
        "afd campaign demo --params params/pocket.yaml",
        "afd help campaign                 the help of one command",
    ),
    version=_version,
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,  # `main` says what is kept
    help_format="plaintext",  # markdown would cost 0.1 s of imports
    default_parameter=Parameter(negative_iterable=()),
)
app.register_install_completion_command()
for group in (campaigns, results, services):
    app.command(group.app, name="*")
app.command(
    "flows.commands.study:app",
    name="ablation",
    help="The arms that AFD is compared with: play, tune, tabulate and reproduce them.",
)
app.command(
    "flows.commands.harvesting:app",
    name="harvest",
    help="Clips of a paid or distant teacher: their cost, orders and imports.",
)
app.command(
    "flows.commands.params:app",
    name="params",
    help="Params files: values in force with their sources, schema, reference.",
)
app.command(
    "flows.commands.sample:sample",
    name="sample",
    help="Make videos of sentences with the student of any round.",
    help_epilogue=examples(
        "afd sample demo \\",
        '  "a small red ball starts high on the left and drops straight down"',
        "afd sample demo --held-out 4 --beside start,teacher -o four.mp4",
        "afd sample demo --held-out 4 --round 3 --seeds 1,2 -o videos/ --sheet all.png",
    ),
)


@app.command(
    name="help", help_epilogue=examples("afd help campaign", "afd help ablation reproduced")
)
def help_(
    *command: Annotated[str, Parameter(help="the command; default: an overview of all")],
) -> None:
    """Print the help of a command."""
    app([*command, "--help"], exit_on_error=True, result_action="return_value")


def main() -> None:
    """Run a command; what a person can mend is said without a traceback, exit code 2."""
    from flows.commands.ending import until_end
    from flows.library_env import set_library_defaults, take_verbose

    arguments = take_verbose(sys.argv[1:])
    set_library_defaults()
    until_end(lambda: app(arguments, exit_on_error=True, result_action="return_value"))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
