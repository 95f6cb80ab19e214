"""Start the processes of a run: by Fabric itself, or as torchrun or SLURM have started them."""

from __future__ import annotations

import datetime
import inspect
import logging
import os
import signal
import sys
import threading
import warnings

import lightning_fabric
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import nn

from backbones import UserError
from episodes.errors import Elsewhere
from episodes.processes import ProcessLost, lost
from episodes.seeds import INIT, derive
from tools.groups import Machine

LAUNCHER = "COVEY_LAUNCHER"  # process id of the process that starts the others
OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"


def open_fabric(machine: Machine, seed: int) -> lightning_fabric.Fabric:
    """Start Lightning Fabric with all its processes, and seed torch for the initial weights.

    Raises UserError when the machine has no such devices, or when the processes do not find each other.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
    if machine.deterministic and torch.cuda.is_available():
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if str(machine.devices) == "0":
        raise _refusal("machine.devices 0 leaves no device to work on: give 1 or more, or auto; '0,' is the first GPU")
    devices, nodes = launched(machine)
    try:
        fabric = _fabric(machine, devices, nodes, "auto")
        if isinstance(fabric.strategy, DDPStrategy):
            _check_sync(machine, fabric)
            fabric = _fabric(machine, devices, nodes, _strategy(fabric, machine))
            follow_the_launcher()
        fabric.launch()
    except (
        TypeError,
        ValueError,
        RuntimeError,
        lightning_fabric.utilities.exceptions.MisconfigurationException,
    ) as error:
        if isinstance(error, UserError):
            raise
        reason = "the processes did not find each other in time" if lost(error) else str(error).splitlines()[0]
        raise UserError(f"cannot use this machine as asked: {reason}") from error
    if fabric.world_size > 1 and fabric.device.type == "cpu":
        speak_when_told_to_end(fabric.global_rank)
    if machine.threads:  # after the launch, which shares the cores out where nobody names a number
        torch.set_num_threads(machine.threads)
    if not fabric.is_global_zero:
        warnings.simplefilter("ignore")  # the first process says it
    torch.manual_seed(derive(INIT, seed))
    return fabric


def launched(machine: Machine) -> tuple[str | int, int]:
    """Return devices a node and nodes: those that torchrun or srun have started processes for, else as asked.

    Raises UserError when another number is asked for than was started.
    """
    if TorchElasticEnvironment.detect():
        by, devices, nodes = "torchrun", os.environ.get("LOCAL_WORLD_SIZE", "1"), os.environ.get("GROUP_WORLD_SIZE", 1)
    elif by_srun():
        by, devices, nodes = "srun", os.environ.get("SLURM_NTASKS_PER_NODE"), os.environ.get("SLURM_NNODES", 1)
    else:
        return machine.devices, machine.num_nodes
    if devices is None:
        raise _refusal("SLURM does not say how many processes each node has: give sbatch or srun --ntasks-per-node")
    devices, nodes, asked = int(devices), int(nodes), _count(machine.devices)
    if asked not in (None, 1, devices):
        raise _refusal(f"{by} has started {devices} processes on this node, not {asked}: leave out --machine.devices")
    if machine.num_nodes not in (1, nodes):
        raise _refusal(f"{by} runs on {nodes} nodes, not {machine.num_nodes}: leave out --machine.num_nodes")
    return (machine.devices if asked == devices else devices), nodes


def _refusal(text: str) -> UserError:
    """Return what all processes of a node raise for the same wrong options; the first of them says it."""
    srun = "SLURM_LOCALID" if by_srun() else ""
    first = os.environ.get("LOCAL_RANK" if TorchElasticEnvironment.detect() else srun, "0") == "0"
    return (UserError if first else Elsewhere)(text)


def by_srun() -> bool:
    """Whether this is one of several processes that srun has started; a batch script has SLURM's variables as well."""
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def _count(devices: str | int) -> int | None:
    """Return how many devices an option names; None for all that there are."""
    text = str(devices)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdigit() else None


def _fabric(machine: Machine, devices: str | int, nodes: int, strategy) -> lightning_fabric.Fabric:
    # In a SLURM job without srun or torchrun nobody else starts the processes, though SLURM's variables say so.
    own = SLURMEnvironment.detect() and not by_srun() and not TorchElasticEnvironment.detect()
    return lightning_fabric.Fabric(
        accelerator=machine.accelerator,
        devices=devices,
        num_nodes=nodes,
        precision=machine.precision,
        strategy=strategy,
        plugins=[LightningEnvironment()] if own else None,
    )


def _strategy(fabric, machine: Machine) -> DDPStrategy:
    """DDP that gives up waiting, leaves the running statistics to `fit`, and sends small messages past the GPU."""
    backend = "cpu:gloo,cuda:nccl" if isinstance(fabric.accelerator, _CUDA) else None
    timeout = datetime.timedelta(minutes=machine.timeout_minutes)
    newer = "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    option = "forward_sync_buffers" if newer else "broadcast_buffers"  # the older name
    return DDPStrategy(timeout=timeout, process_group_backend=backend, **{option: False})


_CUDA = lightning_fabric.accelerators.CUDAAccelerator


def _check_sync(machine: Machine, fabric) -> None:
    if machine.sync_batchnorm and not isinstance(fabric.accelerator, _CUDA):
        raise UserError(
            "machine.sync_batchnorm needs GPUs, since torch has synchronised batch statistics for them alone: "
            "leave it out, or train on one process"
        )


def follow_the_launcher() -> None:
    """See to it that no process stays behind: a started one ends with the process that has started it.

    Where Fabric starts the processes, the first one already watches the others; its last word becomes a sentence.
    """
    if os.environ.get(LAUNCHER) == str(os.getppid()):
        threading.Thread(target=_end_with, args=(os.getppid(),), name="follow-the-launcher", daemon=True).start()
        return
    os.environ[LAUNCHER] = str(os.getpid())
    observer = logging.getLogger(OBSERVER)
    observer.setLevel(logging.INFO)
    observer.propagate = False
    if not any(isinstance(handler, _LastWord) for handler in observer.handlers):
        observer.addHandler(_LastWord())


def _end_with(parent: int) -> None:
    alone = threading.Event()
    while os.getppid() == parent:
        alone.wait(1.0)
    os.kill(os.getpid(), signal.SIGKILL)  # blocked in a collective, it would hear nothing else


def speak_when_told_to_end(rank: int) -> None:
    """Turn SIGTERM, by which launchers end the rest when one process has ended, into a sentence.

    Not where a GPU may keep the process from listening: it would only end later.
    """

    def told(number, frame) -> None:
        text = f"process {rank} was told to end (SIGTERM), as when another one has ended; go on with --resume true"
        raise (ProcessLost if rank < 2 else Elsewhere)(text)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, told)


class _LastWord(logging.Handler):
    """Say why the run ends when Fabric is about to kill its processes because one of them has ended."""

    def emit(self, record: logging.LogRecord) -> None:
        if "terminated with code" in record.getMessage():
            sentence = "another process of this run has ended, so all are ended; go on with --resume true"
            print(f"error: {sentence}", file=sys.stderr, flush=True)
