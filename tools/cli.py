"""What every script does around its job: read options, and turn bad input into one sentence and exit code 2."""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from tools.limits import out_of_range

Config = TypeVar("Config")
# What goes wrong with a disk or its permissions is the user's to mend; any other OSError is ours.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def build_parser(config_class: type, name: str) -> ArgumentParser:
    """Return the parser of `python -m tools.<name>` for a dataclass of `tools.config`."""
    parser = ArgumentParser(
        prog=f"python -m tools.{name}",
        description=(config_class.__doc__ or "").split("\n\n")[0],
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,  # half a name must not pass for another option
        usage="%(prog)s [--config RECIPE.yaml] [--OPTION VALUE ...]\n\n"
        "Where it is unique, the last part of a name is enough: --skip-broken for --data.skip_broken true.",
    )
    parser.add_argument("--config", action="config", help="Recipe (YAML); later flags override it.")
    parser.add_class_arguments(config_class, as_group=False)
    return parser


def parse(config_class: type[Config], name: str, argv: list[str] | None = None) -> Config:
    """Read flags and recipe into the dataclass; unknown keys and bad values end with one sentence and exit code 2."""
    parser, kinds = build_parser(config_class, name), option_types(config_class)
    argv = spell_out(sys.argv[1:] if argv is None else argv, kinds)
    check_recipes(argv)
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        stop(f"{_explain(str(error), config_class)} (see python -m tools.{name} --help)")
    for key, kind in typing.get_type_hints(config_class).items():
        if is_dataclass(kind) and not isinstance(options[key], Namespace):
            stop(_is_a_group(key, kind))
    return config_class(**{key: value for key, value in vars(parser.instantiate(options)).items() if key != "config"})


def check_recipes(argv: list[str]) -> None:
    """Stop with one sentence if a recipe that the flags name cannot be read or holds no options; absent ones pass."""
    following = [value for flag, value in zip(argv, argv[1:], strict=False) if flag == "--config"]
    for name in following + [flag.partition("=")[2] for flag in argv if flag.startswith("--config=")]:
        if not Path(name).is_file():
            continue  # the parser says so
        try:
            content = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            stop(f"the recipe '{name}' is not a text file: recipes are YAML")
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
            where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            stop(f"the recipe '{name}' is not YAML{where}: {problem or ' '.join(str(error).split())}")
        if content is None:
            stop(f"the recipe '{name}' is empty: write options into it, one 'name: value' a line")
        if not isinstance(content, dict):
            stop(f"the recipe '{name}' holds no options: write one 'name: value' a line")


def option_types(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Return every option of a dataclass, those of groups as GROUP.OPTION, with its type."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(config_class).items():
        found |= option_types(kind, f"{prefix}{name}.") if is_dataclass(kind) else {prefix + name: kind}
    return found


def spell_out(argv: list[str], kinds: dict[str, Any]) -> list[str]:
    """Write flags as the parser knows them.

    --out is another name of --run. A name may have hyphens, and lack its group where its last part is unique. A
    yes-or-no option may stand alone, and --no-NAME says no (or none, where that is a choice). The values of a list
    may stand side by side: `--k_shot 1 5`.
    """
    tails: dict[str, list[str]] = {}
    for key in kinds:
        tails.setdefault(key.split(".")[-1], []).append(key)
    result, place = [], 0
    while place < len(argv):
        name, equals, value = argv[place].partition("=")
        stop_at = next((i for i in range(place + 1, len(argv)) if argv[i].startswith("--")), len(argv))
        values = [value] if equals else argv[place + 1 : stop_at]
        if not name.startswith("--"):
            result.append(argv[place])
            place += 1
            continue
        key = name[2:].replace("-", "_")
        if key == "out" and "run" in kinds:  # torchrun takes a --run for one of its own options
            key = "run"
        if key not in kinds and len(tails.get(key, ())) == 1:
            key = tails[key][0]
        kind = kinds.get(key)
        if kind is None and not values and key.removeprefix("no_") in kinds:
            kind = kinds[key.removeprefix("no_")]
            if kind is bool or "none" in typing.get_args(kind):
                key, values = key.removeprefix("no_"), ["false" if kind is bool else "none"]
        elif kind is bool and not values:
            values = ["true"]
        elif (inner := _listed(kind)) and values and not values[0].lstrip().startswith("[") and values != ["null"]:
            values = [f"[{', '.join(json.dumps(v) if inner is str else v for v in values)}]"]
        result += [f"--{key}={values[0]}"] if equals else [f"--{key}", *values]
        place = place + 1 if equals else stop_at
    return result


def _listed(kind: Any) -> Any:
    """Return the type of the values of a list, one that may be null included; None for any other option."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((typing.get_args(part)[0] for part in kinds if typing.get_origin(part) is list), None)


def describe(kind: Any) -> str:
    """Say in words what an option takes."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join(describe(part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return f"a list of values, each {describe(typing.get_args(kind)[0])}"
    if typing.get_origin(kind) is dict:
        return "names and values, as in '{width: 32}' or --OPTION.width 32"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return words.get(kind, str(kind))


def _is_a_group(key: str, kind: type) -> str:
    return f"{key} is a group of options, such as {key}.{next(iter(typing.get_type_hints(kind)))}, not a value"


def _explain(message: str, config_class: type) -> str:
    """Turn the parser's message into a sentence about the option."""
    kinds, top = option_types(config_class), typing.get_type_hints(config_class)
    message = " ".join(re.sub(r"^error: ", "", message.strip()).split()).removesuffix(".")
    missing = re.search(r'Parser key "config": .*?\'([^\']*)\'$', message)
    if missing:
        path = Path(missing[1])
        others = [] if path.exists() else [p.name for p in path.parent.glob("*.yaml")]
        near = difflib.get_close_matches(path.name, others, n=1)
        hint = f"; did you mean '{path.parent / near[0]}'?" if near else ""
        return f"the recipe '{path}' {'is not a file' if path.exists() else 'does not exist'}{hint}"
    key = re.search(r'Parser key "([\w.]+)"', message)
    if key and key[1] in kinds:
        value = re.search(r"(?:Got|Given) value: (.*)$", message)
        return f"{key[1]} must be {describe(kinds[key[1]])}" + (f", not {value[1]}" if value else "")
    if key and is_dataclass(top.get(key[1])):
        return _is_a_group(key[1], top[key[1]])
    return message + _nearest_option(message, list(kinds))


def _nearest_option(message: str, known: list[str]) -> str:
    """Return a hint when the message is about an option that does not exist."""
    found = re.search(r"Option '([\w.]+)' is not|unrecognized arguments: --([\w.]+)", message)
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if not found and not inside:
        return ""
    wanted = ".".join(inside.groups()) if inside else next(group for group in found.groups() if group)
    tails = {name.split(".")[-1]: name for name in known}
    close = difflib.get_close_matches(wanted, known, n=1) or [
        tails[name] for name in difflib.get_close_matches(wanted.split(".")[-1], tails, n=1)
    ]
    return f"; did you mean '{close[0]}'?" if close else ""


def stop(message: str, code: int = 2) -> typing.NoReturn:
    """Print one sentence to standard error and exit."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


def run_tool(config_class: type[Config], name: str, job: Callable[[Config], Any], argv: list[str] | None = None) -> Any:
    """Parse options and do the job; bad input becomes one sentence and exit code 2, a bug keeps its traceback."""
    # Threads that wait must not spin: on a busy machine they would take the time of those that they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    config = parse(config_class, name, argv)
    if wrong := out_of_range(config):  # before torch is imported, which takes seconds
        stop(wrong)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # our source lines say nothing to users
    from backbones.errors import Elsewhere, UserError

    try:
        result = job(config)
        if together := _processes():
            together.leave()
        return result
    except UserError as error:
        if getattr(error, "agreed", False):  # all processes are here with the same error
            _processes().leave()
        if isinstance(error, Elsewhere):
            raise SystemExit(2) from None
        stop(str(error))
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        stop(f"{error.strerror}: {error.filename or 'while writing'}; finished checkpoints are whole, see --resume")
    except RuntimeError as error:
        told = together.as_lost(error) if (together := _processes()) else None
        if told is None:
            raise
        if isinstance(told, Elsewhere):
            raise SystemExit(2) from None
        stop(str(told))
    except KeyboardInterrupt:
        stop("interrupted; go on with --resume true", code=130)


def _processes() -> types.ModuleType | None:
    """Return `episodes.processes` if the job has used it; scripts that have not need not import torch for it."""
    return sys.modules.get("episodes.processes")
