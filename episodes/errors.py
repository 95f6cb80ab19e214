"""Errors of this room; defined one room down so that every room can raise them."""

from backbones.errors import Elsewhere, UserError, nearest

__all__ = ["Elsewhere", "UserError", "nearest"]
