"""Building the language model: an interruption leaves no trace, and what is saved is the rounded model."""

import argparse
import socket
from pathlib import Path

import language
import parallel
import pytest
import torch
import torch.distributed as dist
from parallel import Worker
from safetensors.torch import load_file

from safety_modules.paths import checkpoint_dir

STEPS = 5


def built(out: Path, steps_until_interruption: int | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs the build in this process; returns the steps that it made."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = argparse.Namespace(
        out=str(out),
        steps=STEPS,
        seed=0,
        styles="seen",
        processes=1,
        port=port,
        tower=str(checkpoint_dir()),
        start=None,
    )
    args.pictures, args.tokens, args.lr = 12, 500, 2.5e-3
    made: list[int] = []
    plain = language.loss_of

    def counted(*given: object) -> torch.Tensor:
        if len(made) == steps_until_interruption:
            raise KeyboardInterrupt
        made.append(1)
        return plain(*given)

    monkeypatch.setattr(language, "loss_of", counted)
    try:
        language.train(Worker(0, args), args)
    except KeyboardInterrupt:
        pass
    finally:
        dist.destroy_process_group()
        monkeypatch.setattr(language, "loss_of", plain)
    return made


@pytest.mark.slow
def test_a_build_that_was_interrupted_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "SAVE_EVERY", -1)
    monkeypatch.setattr(language, "REPORTS", 1)
    monkeypatch.setattr(language, "validate", lambda *given: {})
    assert len(built(tmp_path / "whole", None, monkeypatch)) == STEPS
    assert len(built(tmp_path / "torn", 3, monkeypatch)) == 3
    assert len(built(tmp_path / "torn", None, monkeypatch)) == STEPS - 3
    whole, torn = (load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in ("whole", "torn"))
    assert all(torch.equal(whole[name], torn[name]) for name in whole)
    assert all(torch.equal(value, value.half().float()) for value in whole.values())
    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)["model"]
    weight = state["model.language_model.embed_tokens.weight"]
    assert not torch.equal(weight, weight.half().float())  # training itself goes on unrounded
