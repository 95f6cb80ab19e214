"""`python -m tests.tools.ending RANK STEP`: tools.pretrain, with one of its processes killed by SIGKILL in one step.

The kill comes after the forward pass of a step, counted from 0. Options of the script follow.
"""

from __future__ import annotations

import os
import signal
import sys


def end_in(rank: int, step: int) -> None:
    """Let the process of this rank end in this step of the training that follows."""
    import torch.distributed as dist

    from fewshot import encoder

    plain, done = encoder.classification_step, iter(range(step))

    def classification_step(model, batch):
        values = plain(model, batch)
        if next(done, None) is None and dist.get_rank() == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        return values

    encoder.classification_step = classification_step


if __name__ == "__main__":
    from tools.cli import run_tool
    from tools.config import Pretrain
    from tools.pretrain import pretrain

    end_in(int(sys.argv[1]), int(sys.argv[2]))
    run_tool(Pretrain, "pretrain", pretrain, sys.argv[3:])
