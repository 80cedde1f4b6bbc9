"""Command that writes a campaign page: `python -m afd.campaign_page < request.json`.

A process of its own: the campaign's head computes nothing and waits for no film.
"""

import os
import sys

from afd.campaign_page.compose import write_page
from afd.campaign_page.request import PageRequest


def main() -> None:
    """Write the page of the request on stdin, at the lowest priority."""
    os.nice(19)
    write_page(PageRequest.model_validate_json(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
