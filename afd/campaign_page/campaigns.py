"""Index of campaign pages: a row a campaign with its state and main number."""

from collections.abc import Sequence
from typing import Any

from afd.campaign_page.templates import environment


def render_index(campaigns: Sequence[Any], mlflow: str) -> str:
    """Return the index as HTML: each campaign's name, state, progress and main number."""
    template = environment().get_template("campaigns.html.j2")
    return template.render(campaigns=campaigns, mlflow=mlflow)
