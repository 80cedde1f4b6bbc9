"""Harvesting from teachers that are paid or far away: asked for once, whatever happens."""
