"""Run the jobs of a grid on a Ray cluster: Ray holds each back until what it needs is done, and repeats lost ones."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backbones.errors import UserError
from tools.grid.job import Outcome, count, run_job
from tools.grid.local_engine import needed, settled, unmet
from tools.grid.plan import Job

MISSING = "--engine ray needs Ray: pip install -r requirements-ray.txt"
# Ray speaks gRPC, and so HTTP/2 (RFC 9113, 3.4): each side begins with a frame of settings.
SETTINGS = b"\x04"
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + bytes(5)
PASSED_ON = ("COVEY_CACHE", "COVEY_SHARED", "TORCH_HOME", "HF_HOME")  # environment that a job may depend on


@dataclass(frozen=True)
class Room:
    """What Ray sets aside for a job: CPUs of each of its processes, GPUs, and processes.

    address: of a running cluster, None for one on this machine. repeats: of a job whose worker was lost.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float | None = None
    devices: int = 1
    repeats: int = 3


def import_ray() -> Any:
    """Return the module `ray`; raises UserError with the command that installs it."""
    try:
        import ray
    except ImportError as error:
        raise UserError(MISSING) from error
    return ray


def probe(address: str, timeout_s: float = 3.0) -> None:
    """Raise UserError unless Ray answers at HOST:PORT or ray://HOST:PORT; Ray itself would try for minutes.

    address: also auto, the cluster that was started last on this machine, which may be gone; or local, a new one.
    """
    if address == "local":
        return
    if address == "auto" and (address := os.environ.get("RAY_ADDRESS") or _last_started()) is None:
        raise UserError(
            "no Ray cluster was started on this machine for --address auto to join: start one with 'ray start --head', "
            "give its HOST:PORT, or no address for a cluster of this run alone"
        )
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise UserError(f"the Ray address '{address}' is none of HOST:PORT, ray://HOST:PORT and auto")
    mend = "start one with 'ray start --head', give another --address, or none for a cluster on this machine"
    try:
        with socket.create_connection((found[1], int(found[2])), timeout_s) as link:
            link.sendall(HELLO)
            greeting = b"" if os.environ.get("RAY_USE_TLS") == "1" else link.recv(9)
    except OSError as error:
        raise UserError(f"no Ray cluster answers at '{address}' ({error.strerror or error}): {mend}") from error
    if os.environ.get("RAY_USE_TLS") != "1" and greeting[3:4] != SETTINGS:
        raise UserError(f"what answers at '{address}' is not a Ray cluster: {mend}")


def _last_started() -> str | None:
    """Return the address that Ray noted when a cluster was started on this machine, if it did."""
    note = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    return note.read_text().strip() if note.is_file() else None


def address_of(given: str | None) -> str:
    """Return where to look for a cluster: the option, else what Ray's environment says, else a new one."""
    return given or os.environ.get("RAY_ADDRESS") or "local"


def connect(room: Room) -> Any:
    """Join the cluster, or start one on this machine; returns the module `ray`. Raises UserError if it cannot."""
    ray = import_ray()
    address = address_of(room.address)
    probe(address)
    home = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": path, **passed}}, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
    try:
        ray.init(address=address, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = f"the Ray cluster at '{address}'" if address != "local" else "a Ray cluster on this machine"
        hint = " (one that asks for a token needs RAY_AUTH_MODE=token here)" if address != "local" else ""
        raise UserError(f"cannot use {where}: {reason}{hint}") from error
    return ray


def resources(ray: Any, room: Room) -> dict[str, float]:
    """Return what a job asks for; raises UserError when no machine of the cluster has it."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = room.gpus
    if gpus is None:
        gpus = float(room.devices) if any(node.get("GPU", 0) for node in nodes) else 0.0
    wanted = {"num_cpus": room.cpus * room.devices, "num_gpus": gpus}
    if not any(node.get("CPU", 0) >= wanted["num_cpus"] and node.get("GPU", 0) >= gpus for node in nodes):
        raise UserError(
            f"no machine of the Ray cluster has the {count(wanted['num_cpus'], 'CPU')} and {count(gpus, 'GPU')} of a "
            "job: lower cpus_per_job, gpus_per_job or machine.devices"
        )
    return wanted


def remote_job(work: Callable, job: dict, before: dict | None, root: str, folder: str, *outcomes: dict) -> dict:
    """Do a job on a worker; `outcomes` are those of the jobs that it needs, which Ray waits for."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]  # srun may have started Ray's nodes, but this job is no task of srun
    os.chdir(folder)  # relative paths of pictures and results are those of who asked
    mine, start = Job(**job), Job(**before) if before else None
    names = {start.name: start} if start else {}
    stopped = unmet(mine, names, {outcome["name"]: Outcome(**outcome) for outcome in outcomes})
    return asdict(stopped or work(mine, Path(root), start))


def run_ray(jobs: list[Job], root: Path, tell: Callable[[Outcome], None], room: Room, work: Callable = run_job) -> None:
    """Do every job whose needs were met, as many at once as the cluster has room for.

    tell: hears of every outcome, in the order in which the jobs end. work: what does a job, see `run_job`.
    All machines of the cluster must see the run folder and the pictures under the same paths.
    """
    import_ray()
    by_name, done = {job.name: job for job in jobs}, {outcome.name: outcome for outcome in settled(jobs, root)}
    for outcome in done.values():
        tell(outcome)
    todo = [job for job in jobs if job.name not in done]
    if not todo:
        return
    ray = connect(room)
    try:
        task, wanted = ray.remote(remote_job), resources(ray, room)
        references: dict[str, Any] = {}
        for job in todo:
            before = needed(job, by_name)
            waits = [references[name] for name in job.needs if name in references]
            start = asdict(before) if before else None
            references[job.name] = task.options(name=job.name, max_retries=room.repeats, **wanted).remote(
                work, asdict(job), start, str(root), os.getcwd(), *waits
            )
        names = {reference: name for name, reference in references.items()}
        pending = list(names)
        while pending:
            (ready,), pending = ray.wait(pending)
            job = by_name[names[ready]]
            outcome = fetch(ray, ready, job, room.repeats)
            done[job.name] = unmet(job, by_name, done) or outcome  # a lost job's error is that of those that need it
            tell(done[job.name])
    finally:
        ray.shutdown()


def fetch(ray: Any, reference: Any, job: Job, repeats: int) -> Outcome:
    """Return how a job ended; one whose worker was lost again and again, or that Ray could not start, has failed."""
    try:
        return Outcome(**ray.get(reference))
    except ray.exceptions.WorkerCrashedError:
        return Outcome(job.name, f"its worker died {times(repeats + 1)}: killed, or without memory")
    except ray.exceptions.RayError as error:
        first = (str(error).strip().splitlines() or [""])[-1]
        return Outcome(job.name, f"Ray could not do it: {type(error).__name__}: {first}")


def times(number: int) -> str:
    """Say how often: once, 2 times."""
    return "once" if number == 1 else f"{number} times"
