"""Errors of this room; defined one room down so that every room can raise them."""

from backbones.errors import UserError, nearest

__all__ = ["UserError", "nearest"]
