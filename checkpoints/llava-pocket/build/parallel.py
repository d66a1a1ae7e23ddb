"""Data-parallel building of pocket: one single-threaded process a core, gradients averaged by gloo."""

import argparse
import os
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


class Worker:
    """One of the processes.

    Attributes:
        rank: its number; 0 measures and saves.
        world: how many there are.
    """

    def __init__(self, rank: int, world: int, port: int, minutes: float) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
        torch.set_num_threads(1)
        self.rank, self.world, self._minutes, self._began = rank, world, minutes, 0.0

    def start_clock(self) -> None:
        """Begin to count the minutes, when every process has come here."""
        dist.barrier()
        self._began = time.time()

    @property
    def minutes(self) -> float:
        """Minutes since the clock was started."""
        return (time.time() - self._began) / 60

    def share_done(self) -> float:
        """Share of the time that has passed, the same in every process; 1 or more = stop."""
        done = torch.tensor(self.minutes / self._minutes)
        dist.broadcast(done, 0)
        return float(done)

    def wait(self) -> None:
        """Until every process has come here."""
        dist.barrier()

    def average_gradients(self, parameters: Sequence[nn.Parameter], clip: float | None = 1.0) -> None:
        """Mean over the processes, then the norm of all of them cut to `clip`."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        if clip is not None:
            flat *= min(1.0, clip / (float(flat.norm()) + 1e-6))
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))


def add_arguments(parser: argparse.ArgumentParser, minutes: float, port: int) -> None:
    """The options every build has."""
    parser.add_argument("--out", required=True, help="folder for weights and log")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--styles", choices=("build", "seen"), default="build", help="drawing styles and fonts")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=port)


def run(train: Callable[[Worker, argparse.Namespace], None], args: argparse.Namespace) -> None:
    """`train` in every process."""
    mp.spawn(_enter, (train, args), nprocs=args.processes)


def _enter(rank: int, train: Callable[[Worker, argparse.Namespace], None], args: argparse.Namespace) -> None:
    train(Worker(rank, args.processes, args.port, args.minutes), args)
