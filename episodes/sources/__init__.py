"""Where images come from, see `table.py`."""

from .table import SOURCES, open_source

__all__ = ["SOURCES", "open_source"]
