"""What the fingerprint of a base notices, and what it costs.

    python benchmarks/fingerprint.py                   # 200 random changes of llava-pocket, and wrappings of one base
    python benchmarks/fingerprint.py --cost            # seconds on parts of LLaVA-1.5-7B's size, on this machine's CPU

A change spoils one tensor of vision tower, projector or embeddings (noise, a permutation of rows, a merged LoRA), or
swaps two blocks of the tower. Accepted ones should leave verdicts alone: those of 200 pictures are compared.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from side_by_side import environment
from torch import nn
from transformers import CLIPVisionModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from safety_modules import attach_safety, pocket
from safety_modules.backbones import find_backbone, identity
from safety_modules.backbones.bases import published_config
from safety_modules.backbones.hf_llava import HFModules
from safety_modules.backbones.weights import Watch, weights

PICTURES, MOVED = 200, 0.01
LANGUAGE = r".*language_model.*\.(q_proj|v_proj)"


def tensors(model: Any) -> dict[str, torch.Tensor]:
    """All that verdicts and projected features come from, by name."""
    base, layer = HFModules(model), model.config.vision_feature_layer
    unused = {f"encoder.layers.{number}." for number in _unused_layers(base.vision_tower, layer)} | {"post_layernorm."}
    found = {
        f"tower.{name}": tensor
        for name, tensor in weights(base.vision_tower)
        if not name.removeprefix("vision_model.").startswith(tuple(unused))
    }
    found |= {f"projector.{name}": tensor for name, tensor in weights(base.projector)}
    return found | {f"embeddings.{name}": tensor for name, tensor in weights(model.get_input_embeddings())}


def _unused_layers(tower: nn.Module, layer: Any) -> range:
    layers, places = identity.used_layers(tower, layer)
    return range(max(places), len(layers))


@torch.no_grad()
def spoil(model: Any, seed: int) -> str:
    """Make one random change; returns what it was."""
    draw = torch.Generator().manual_seed(seed)
    known = tensors(model)
    kind = ("noise", "permutation", "merged LoRA", "swapped blocks")[seed % 4]
    if kind == "swapped blocks":
        layers, places = identity.used_layers(HFModules(model).vision_tower, model.config.vision_feature_layer)
        one, other = torch.randperm(max(places), generator=draw)[:2].tolist()
        layers[one], layers[other] = layers[other], layers[one]
        return f"{kind} {one} and {other}"
    names = [name for name, tensor in known.items() if tensor.ndim > 1 or kind == "noise"]
    name = names[int(torch.randint(len(names), (1,), generator=draw))]
    tensor = known[name]
    scale = 10 ** float(torch.empty(1).uniform_(-3, 0, generator=draw)) * float(tensor.float().std(correction=0))
    if kind == "noise":
        tensor.add_(scale * torch.randn(tensor.shape, generator=draw))
    elif kind == "permutation":
        tensor.copy_(tensor[torch.randperm(len(tensor), generator=draw)])
    else:
        table = tensor.flatten(1)
        a, b = torch.randn(len(table), 4, generator=draw), torch.randn(4, table.shape[1], generator=draw)
        tensor.add_((scale / 2 * a @ b).view_as(tensor))
    return f"{kind} of {name}"


def changes(count: int, pictures: int = PICTURES) -> dict[str, Any]:
    """Random changes of pocket: how many are accepted, and how many of those move a verdict.

    Args:
        count: of changes.
        pictures: whose verdicts are compared, where a change is accepted.
    """
    base, processor = pocket.load()
    own = find_backbone(base, processor).fingerprint()
    samples = pocket.make("attack", pictures // 2, split="validation")
    samples += pocket.make("benign", pictures - len(samples), split="validation")

    def probabilities(model: Any) -> torch.Tensor:
        safety = attach_safety(model, processor, adapter=pocket.adapter_dir())
        found = safety.classify([s.image for s in samples], [s.question for s in samples])
        safety.detach()
        return torch.tensor([list(verdict.probabilities.values()) for verdict in found])

    accepted, moved, before = [], [], None
    for seed in range(count):
        model = copy.deepcopy(base)
        what = spoil(model, seed)
        if find_backbone(model, processor).fingerprint() != own:
            continue
        accepted.append(what)
        before = probabilities(base) if before is None else before
        if float((probabilities(model) - before).abs().max()) > MOVED:
            moved.append(what)
    return {"changes": count, "accepted": accepted, "accepted and moved": moved}


def wrapped() -> dict[str, Callable[[Any], Any]]:
    """Other forms of the same weights."""

    def second(model: Any) -> Any:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=LANGUAGE))
        model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
        return model

    def peft(**options: Any) -> Callable[[Any], Any]:
        name = options.pop("adapter_name", "default")
        targets = options.pop("target_modules", LANGUAGE)
        return lambda model: get_peft_model(model, LoraConfig(r=2, target_modules=targets, **options), name)

    def compiled(model: Any) -> Any:
        model.model.vision_tower = torch.compile(model.model.vision_tower, backend="eager")
        return model

    return {
        "bfloat16": lambda model: model.bfloat16(),
        "float16": lambda model: model.half(),
        "float64": lambda model: model.double(),
        "LoRA on the language model": peft(),
        "... trained": peft(init_lora_weights=False),
        "... of another name": peft(adapter_name="mine"),
        "new LoRA in the tower": peft(target_modules=["q_proj", "v_proj"]),
        "second adapter at rest, in the tower": second,
        "modules_to_save projector": peft(modules_to_save=["multi_modal_projector"]),
        "modules_to_save projector, another name": peft(modules_to_save=["multi_modal_projector"], adapter_name="mine"),
        "modules_to_save embeddings": peft(modules_to_save=["embed_tokens"]),
        "modules_to_save last norm": peft(modules_to_save=["norm"]),
        "trainable tokens": peft(trainable_token_indices=[5, 6]),
        "tower behind torch.compile": compiled,
        "more rows of embeddings": lambda model: model.resize_token_embeddings(2000) and model,
    }


def wrappings() -> dict[str, bool]:
    """Whether each of them is accepted as the same base."""
    base, processor = pocket.load()
    own = find_backbone(base, processor).fingerprint()
    own.pop("vocab_size")
    found = {}
    for name, wrap in wrapped().items():
        live = find_backbone(wrap(copy.deepcopy(base)), processor).fingerprint()
        live.pop("vocab_size")
        found[name] = live == own
    return found


def cost(dtype: torch.dtype) -> dict[str, float]:
    """Seconds of one core on parts of LLaVA-1.5-7B's size, random numbers.

    Of its 32 blocks of the language model one is made, and its time counted 32 times.
    """
    config = published_config("llava-1.5-7b")
    text = config.text_config
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        tower = CLIPVisionModel(config.vision_config)
        projector = [nn.Linear(config.vision_config.hidden_size, text.hidden_size)]
        projector.append(nn.Linear(text.hidden_size, text.hidden_size))
        embeddings = nn.Embedding(text.vocab_size, text.hidden_size)
        block = LlamaDecoderLayer(text, 0)
    finally:
        torch.set_default_dtype(before)
    parts = identity.Parts(tower, projector, embeddings, {"block": block}, words=32_000)
    layer = config.vision_feature_layer
    whole = _seconds(lambda: identity.digests(parts, layer, language=False))
    language = 32 * _seconds(lambda: identity.language_digest(parts.language))
    modules = [tower, *projector, embeddings]
    watch, blocks = Watch(modules), Watch([block])
    later = _seconds(watch.changed) + 32 * _seconds(blocks.changed)
    looked_at = sum(tensor.nbytes for module in modules for _, tensor in weights(module)) / 1e9
    return {
        "gigabytes of tower, projector and embeddings": looked_at,
        "seconds": whole,
        "seconds a gigabyte": whole / looked_at,
        "seconds for the language model": language,
        "first fingerprint, seconds": whole + language,
        "nothing changed since, milliseconds": 1000 * later,
    }


def _seconds(call: Callable[[], Any], times: int = 3) -> float:
    """Of the processor (a machine may be shared): the least of some calls, the first left out."""
    found = []
    for _ in range(times + 1):
        began = time.process_time()
        call()
        found.append(time.process_time() - began)
    return min(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="measure time instead")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"environment": environment("cpu")}
    if args.cost:
        for name in ("float32", "float16", "bfloat16"):
            found[name] = {key: round(value, 3) for key, value in cost(getattr(torch, name)).items()}
    else:
        found["random changes"], found["the same weights in another form are accepted"] = (
            changes(args.changes),
            wrappings(),
        )
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
