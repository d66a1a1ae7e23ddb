"""A stage's folder: which run it belongs to, its checkpoints, and its final weights.

Whatever moment a process is killed at, the same command goes on: a checkpoint counts once its mark is there, which is
written last and removed first, and final weights appear whole.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.errors import ConfigError
from safety_modules.io.files import write_whole
from safety_modules.io.run_manifest import begin_run, check_run
from safety_modules.records.captions import CAPTION
from safety_modules.records.record import GoodRecords, Record
from safety_modules.training import distributed
from safety_modules.training.recipe import Recipe
from safety_modules.training.sampling import NEEDS_QUESTION

NOTE, MARK, FINAL, WEIGHTS, STATE = "run.json", "whole", "final.safetensors", "model.safetensors", "trainer_state.json"


def run_key(attachment: SafetyAttachment, recipe: Recipe, parts: Sequence[GoodRecords | None]) -> dict[str, Any]:
    """What must be equal for a stage to go on; JSON-able, each value by the name an error gives it.

    `parts`: training and validation data, with the digests of their pictures.
    """
    found = [None if part is None else data_digest(part.records, part.digests or ()) for part in parts]
    return {
        "recipe": recipe.model_dump(mode="json"),
        **dict(zip(("data", "validation data"), found, strict=True)),
        "base": _digest(attachment.backbone.fingerprint()),
        "pixels": attachment.backbone.pixel_settings(),
        "precision of the base": sorted({str(p.dtype) for p in attachment.backbone.model.parameters()}),
        "design": attachment.config.model_dump(mode="json", exclude={"outside"}),  # which a training fits anew
        "policy": _digest(attachment.policy.model_dump(mode="json")),
        "number of processes": distributed.count(),
    }


def check(folder: Path, key: dict[str, Any]) -> None:
    """Refuse a folder that another run was begun in. Raises ConfigError naming what differs."""
    check_run(folder / NOTE, key)


def begin(folder: Path, key: dict[str, Any], attachment: SafetyAttachment) -> Path | None:
    """Note which run the folder belongs to, and what its weights are; remove what a killed process left.

    Returns:
        The newest whole checkpoint, if there is one.

    Raises:
        ConfigError: it belongs to another run.
    """
    start = {"weights it starts from": _weights_digest(attachment)}
    check_run(folder / NOTE, key, start)
    distributed.wait()
    if distributed.rank() == 0:
        begin_run(folder / NOTE, key, start)
        for path in folder.glob("*.tmp"):
            path.unlink()
        for path in folder.glob("checkpoint-*"):
            if not (path / MARK).exists():
                shutil.rmtree(path)
    distributed.wait()
    return max(whole(folder), key=step_of, default=None)


def whole(folder: Path) -> list[Path]:
    """The checkpoints that were written to their end."""
    return [path.parent for path in folder.glob(f"checkpoint-*/{MARK}")]


def mark(checkpoint: Path, keep: str) -> None:
    """The checkpoint is whole: older ones go, but the one of this name."""
    (checkpoint / MARK).touch()
    for path in whole(checkpoint.parent):
        if path != checkpoint and path.name != keep:
            (path / MARK).unlink()
            shutil.rmtree(path)


def finish(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write the stage's final weights, after which it is never trained again."""
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    write_whole(folder / FINAL, lambda file: file.write(data))


def final_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """Of a finished stage; None of any other. Raises ConfigError where they are damaged."""
    if not (folder / FINAL).exists():
        return None
    try:
        return load_file(folder / FINAL)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"run damaged: expected the weights of a finished stage in {folder / FINAL}, got {error}. Delete the "
            "file: the stage goes on from its last checkpoint."
        ) from error


def ended_early(checkpoint: Path, recipe: Recipe) -> Path | None:
    """The checkpoint with the best weights, if the run had used up its patience."""
    state = json.loads((checkpoint / STATE).read_bytes())
    best = state.get("best_global_step")
    if best is None or not out_of_patience(state["global_step"], best, recipe):
        return None
    return checkpoint.with_name(f"checkpoint-{best}")


def out_of_patience(step: int, best: int, recipe: Recipe) -> bool:
    """Whether the recipe ends a run at this step, whose best measurement was at another."""
    return recipe.patience > 0 and step - best >= recipe.patience * recipe.evaluate_every


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint was written at."""
    return int(checkpoint.name.rpartition("-")[2])


def _weights_digest(attachment: SafetyAttachment) -> str:
    """Digest of modules and LoRA: what a stage begins with."""
    digest = hashlib.sha256()
    for name, parameter in attachment.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def data_digest(records: Sequence[Record], digests: Sequence[str | None]) -> str:
    """Digest of all that a training takes from records: pictures by their digests, words and labels."""
    digest = hashlib.sha256()
    for record, picture in zip(records, digests, strict=True):
        words = [picture, record.question, record.answer, record.type, record.level]
        digest.update(json.dumps([*words, *map(record.meta.get, (NEEDS_QUESTION, CAPTION)), *record.history]).encode())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
