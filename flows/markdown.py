"""Text of others inside Markdown, shown as it is: by MLflow's notes and Prefect's pages."""

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!])")


def literal(text: str) -> str:
    """Return text for a line or a cell; no character of it is Markdown or HTML."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def literal_block(text: str) -> str:
    """Return lines as a code block, by indent: no fence inside can end it."""
    return "\n".join(f"    {line}" for line in text.splitlines())
