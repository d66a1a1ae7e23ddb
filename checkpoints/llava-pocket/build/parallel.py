"""Data-parallel building of pocket: one single-threaded process a core, gradients averaged by gloo, resumable."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

SAVE_EVERY = 240
"""Seconds between two states from which an interrupted build goes on."""


class Worker:
    """One of the processes.

    Attributes:
        rank: its number; 0 measures and saves.
        world: how many there are.
        step: steps done, those before an interruption among them.
        steps: steps there are to do.
    """

    def __init__(self, rank: int, args: argparse.Namespace) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
        dist.init_process_group("gloo", rank=rank, world_size=args.processes)
        torch.set_num_threads(1)
        self.rank, self.world, self.step, self.steps = rank, args.processes, 0, args.steps
        self._state, self._began, self._minutes = Path(args.out) / "state.pt", time.time(), 0.0
        self._saved = self._began

    @property
    def minutes(self) -> float:
        """Minutes of training, those before an interruption among them."""
        return self._minutes + (time.time() - self._began) / 60

    @property
    def share_done(self) -> float:
        """Share of the steps that are done."""
        return self.step / self.steps

    def resume(self, **parts: Any) -> None:
        """Takes up an interrupted build: each part gets the state that it had when `save_if_due` saved it last."""
        self._began = self._saved = time.time()
        if self._state.exists():
            state = torch.load(self._state, weights_only=True)
            for name, part in parts.items():
                part.load_state_dict(state[name])
            self.step, self._minutes = state["step"], state["minutes"]
        dist.barrier()

    def save_if_due(self, **parts: Any) -> bool:
        """Saves the state of the parts from time to time, and at the end; whether it did, in every process."""
        due = torch.tensor(float(time.time() - self._saved > SAVE_EVERY or self.step == self.steps))
        dist.broadcast(due, 0)
        if not due:
            return False
        self._saved = time.time()
        if self.rank == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            draft = self._state.with_suffix(".part")
            torch.save({**state, "step": self.step, "minutes": self.minutes}, draft)
            draft.replace(self._state)
        return True

    def rng_seed(self, seed: int) -> list[int]:
        """Seed of this process's choices from here on: others in every process, and after an interruption."""
        return [seed, self.rank, self.step]

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


def add_arguments(parser: argparse.ArgumentParser, steps: int, port: int) -> None:
    """The options every build has."""
    parser.add_argument("--out", required=True, help="folder for weights, log and the state to go on from")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--styles", choices=("build", "seen"), default="build", help="drawing styles and fonts")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--port", type=int, default=port)


def run(train: Callable[[Worker, argparse.Namespace], None], args: argparse.Namespace) -> None:
    """`train` in every process."""
    Path(args.out).mkdir(parents=True, exist_ok=True)
    mp.spawn(_enter, (train, args), nprocs=args.processes)


def _enter(rank: int, train: Callable[[Worker, argparse.Namespace], None], args: argparse.Namespace) -> None:
    train(Worker(rank, args), args)
