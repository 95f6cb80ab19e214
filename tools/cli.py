"""What every script does around its job: read options, and turn bad input into one sentence and exit code 2."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

Config = TypeVar("Config")


def build_parser(config_class: type, name: str) -> ArgumentParser:
    """Return the parser of `python -m tools.<name>` for a dataclass of `tools.config`."""
    parser = ArgumentParser(
        prog=f"python -m tools.{name}",
        description=(config_class.__doc__ or "").split("\n\n")[0],
        exit_on_error=False,
        default_env=False,
        usage="%(prog)s [--config RECIPE.yaml] [--OPTION VALUE ...]",
    )
    parser.add_argument("--config", action="config", help="Recipe (YAML); later flags override it.")
    parser.add_class_arguments(config_class, as_group=False)
    return parser


def parse(config_class: type[Config], name: str, argv: list[str] | None = None) -> Config:
    """Read flags and recipe into the dataclass; unknown keys and bad values end with one sentence and exit code 2."""
    parser = build_parser(config_class, name)
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        stop(f"{_tidy(str(error))}{_nearest_option(str(error), parser)} (see python -m tools.{name} --help)")
    return config_class(**{key: value for key, value in vars(parser.instantiate(options)).items() if key != "config"})


def _tidy(message: str) -> str:
    return " ".join(re.sub(r"^error: ", "", message.strip()).split()).removesuffix(".")


def _nearest_option(message: str, parser: ArgumentParser) -> str:
    """Return a hint when the message is about an option that does not exist."""
    found = re.search(r"Option '([\w.]+)' is not|unrecognized arguments: --([\w.]+)", message)
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if not found and not inside:
        return ""
    wanted = ".".join(inside.groups()) if inside else next(group for group in found.groups() if group)
    known = sorted(action.dest for action in parser._actions if action.dest not in ("help", "config"))
    tails = {name.split(".")[-1]: name for name in known}
    close = difflib.get_close_matches(wanted, known, n=1) or [
        tails[name] for name in difflib.get_close_matches(wanted.split(".")[-1], tails, n=1)
    ]
    return f"; did you mean '{close[0]}'?" if close else ""


def stop(message: str, code: int = 2) -> None:
    """Print one sentence to standard error and exit."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def run_tool(config_class: type[Config], name: str, job: Callable[[Config], Any], argv: list[str] | None = None) -> Any:
    """Parse options and do the job; bad input becomes one sentence and exit code 2."""
    config = parse(config_class, name, argv)
    from backbones.errors import UserError

    try:
        return job(config)
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("interrupted; go on with --resume true", code=130)
