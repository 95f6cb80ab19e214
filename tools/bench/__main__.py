"""`python -m tools.bench`: one table of our code against the plain way or a peer, measured in one run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

# Name -> module, and what it compares. A new case is one file with `cases(device)` that yields `Case`s, and one line.
CASES = {
    "bdc": ("tools.bench.bdc", "BDC layer, forward and backward, against plain matrix products"),
    "isqrt": ("tools.bench.isqrt", "Newton-Schulz root, forward and backward, against the published form"),
    "sampler": ("tools.bench.sampler", "choosing the items of episodes, against learn2learn"),
    "prototypes": ("tools.bench.prototypes", "testing a prototype head on stored features, against the plain loop"),
    "logistic": ("tools.bench.logistic", "testing a logistic-regression head on stored features, against scikit-learn"),
    "stl_test": ("tools.bench.stl_test", "a whole STL DeepBDC test of 10,000 episodes, against scikit-learn"),
    "heads": ("tools.bench.heads", "every method on stored features, against one episode at a time"),
    "peers": ("tools.bench.peers", "testing ProtoNet on features, against easyfsl and learn2learn"),
    "clips": ("tools.bench.clips", "from a video file to a clip, against PyAV and decord called directly"),
    "tamt_step": ("tools.bench.tamt_step", "TAMT on clips: inference, tuning, full fine-tuning, against the plain way"),
    "alignment": ("tools.bench.alignment", "OTAM and TRX on stored frame features, against one episode at a time"),
    "episode": ("tools.bench.episode", "one Meta DeepBDC training step with ResNet-12, against the plain BDC layer"),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    listing = "\n".join(f"  {name:10} {what}" for name, (_, what) in CASES.items())
    command = argparse.ArgumentParser(
        prog="python -m tools.bench",
        description="Time and peak memory of covey against the plain way or a peer, in turns, medians over rounds.",
        epilog=f"cases:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("cases", nargs="*", metavar="CASE", help="what to measure (default: all cases)")
    command.add_argument("--json", action="store_true", help="one JSON object a line instead of a table")
    command.add_argument("--list", action="store_true", help="list the cases and stop")
    command.add_argument("--repeats", type=positive, help="rounds (default: each case's own, 3 for episode)")
    command.add_argument("--threads", type=positive, default=1, help="threads that torch may use (default: 1)")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute")
    return command


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 1 where a peer is missing, 2 for bad arguments, 130 interrupted."""
    options = parser().parse_args(arguments)
    if options.list:
        for name, (_, what) in CASES.items():
            print(f"{name:10} {what}")
        return 0
    for variable in THREAD_VARIABLES:  # libraries read them when they are loaded, which is below
        os.environ[variable] = str(options.threads)
    from episodes.errors import UserError

    try:
        check(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run(options)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is."""
    import torch

    from episodes.errors import UserError, nearest

    for name in options.cases:
        if name not in CASES:
            raise UserError(f"case '{name}' is unknown{nearest(name, CASES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here; leave the option out to measure on the CPU")


def run(options: argparse.Namespace) -> int:
    """Measure the chosen cases and show them: JSON lines as they come, or a table at the end."""
    import torch

    from tools.bench.case import PeerMissing
    from tools.bench.show import json_line, machine, show_table, watched

    torch.set_num_threads(options.threads)
    rows, status = [], 0
    for name in dict.fromkeys(options.cases or CASES):
        try:
            for case in chosen(name, options):
                if isinstance(case, PeerMissing):  # the other rows of this name go on
                    print(f"error: {name}: {case}", file=sys.stderr)
                    status = 1
                    continue
                rows.append(watched(case))
                if options.json:
                    print(json_line(rows[-1]), flush=True)
        except PeerMissing as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            status = 1
        except KeyboardInterrupt:  # what was measured is shown all the same
            print("error: interrupted", file=sys.stderr)
            status = 130
            break
    if not options.json and rows:
        show_table(rows, machine(options.device, options.threads))
    return status


def chosen(name: str, options: argparse.Namespace) -> Iterator:
    """Yield the cases of a name one by one, so that a finished one frees what it holds.

    A module may yield a `PeerMissing` in the place of a case.
    """
    for case in importlib.import_module(CASES[name][0]).cases(options.device):
        yield case if isinstance(case, Exception) else replace(case, repeats=options.repeats or case.repeats)


if __name__ == "__main__":
    sys.exit(main())
