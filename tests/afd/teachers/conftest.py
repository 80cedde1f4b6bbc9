"""Vendors are on this machine or nowhere."""

from tests.harvest_server.guard import only_this_machine

__all__ = ["only_this_machine"]
