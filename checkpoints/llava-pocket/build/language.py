"""Trains pocket's projector and language model on a finished tower, and writes the checkpoint.

    python checkpoints/llava-pocket/build/language.py --tower runs/tower/tower.safetensors --out runs/language

The same command goes on after an interruption and ends in the same weights. With `--start` it begins with the weights
and the tokenizer of a checkpoint, with or without another tower.

The tower is frozen, so its features are computed once, and kept in `--out`. Every third batch is text only. Writes
a stock Hugging Face folder `checkpoint/` (model and processor), refreshed four times, and `log.jsonl`.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from examples import PATCHES, Example, Talks, batches, corpus, draw, encode, name_tokens, talks
from muon import Muon
from parallel import Worker, add_arguments, run
from safetensors.torch import load_file, save_file
from tokenizer import build_processor, save_processor, train_tokenizer
from torch import Tensor
from torch.nn import functional as F
from tower import MEAN, STD, vision_config
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from safety_modules.backbones.bases import load_whole
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.matchers import is_refusal
from safety_modules.pocket.scenes import Scene
from safety_modules.pocket.splits import STYLES, make

ALIGNMENT = 0.3
TEXT_ONLY = 3
"""One batch of so many has no pictures."""
REPORTS = 4
MEASURED = 200
"""Validation records of each kind in a report."""


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """LLaVA-1.5's architecture at pocket size, all weights fresh."""
    tokenizer = processor.tokenizer
    vocabulary = -(-len(tokenizer) // 64) * 64
    text = LlamaConfig(
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=vocabulary,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return model


def place_tower(model: LlavaForConditionalGeneration, tower: Path) -> None:
    """The weights that tower.py wrote, or those of a checkpoint folder, in place of the model's own."""
    if tower.is_dir():
        vision = load_whole(tower)[0].model.vision_tower
    else:
        vision = CLIPVisionModel(vision_config())
        weights = {name[7:]: value for name, value in load_file(tower).items() if name.startswith("vision.")}
        vision.load_state_dict(weights)
    model.model.vision_tower.load_state_dict(vision.state_dict())


@torch.no_grad()
def round_to_half(model: LlavaForConditionalGeneration) -> None:
    """Every weight to the nearest float16, kept in float32: LLaVA's own are float16, so all dtypes load one base."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


@contextmanager
def rounded(model: LlavaForConditionalGeneration) -> Iterator[None]:
    """The model as it is saved; training then goes on with the weights it had."""
    kept = [parameter.detach().clone() for parameter in model.parameters()]
    round_to_half(model)
    yield
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), kept, strict=True):
            parameter.copy_(value)


def save_model(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """`save_pretrained`, the tower's tensors named as in the published LLaVA-1.5, so that transformers 4 reads them."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = {
        name if name.startswith(new) else name.replace(old, new): tensor for name, tensor in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})


@torch.no_grad()
def features(model: LlavaForConditionalGeneration, pixels: np.ndarray) -> Tensor:
    """(N, 96, 96, 3) uint8 -> (N, 64, 192) float16 tower features as LLaVA selects them."""
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    hidden = model.model.vision_tower((batch - MEAN) / STD, output_hidden_states=True).hidden_states[-2]
    return hidden[:, 1:].half()


def pictures_of(
    model: LlavaForConditionalGeneration, scenes: Sequence[Scene], seed: int, kept: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 64, 192) float16 features and (N, 64) names under their patches, drawn once and kept in two files."""
    names = [kept.with_suffix(f".{part}.npy") for part in ("features", "patches")]
    if not names[1].exists():
        drawn, patches = draw(scenes, seed), np.empty((len(scenes), PATCHES), np.int64)
        shape = (len(scenes), PATCHES, vision_config().hidden_size)
        found = np.lib.format.open_memmap(names[0], "w+", np.float16, shape)
        for start in range(0, len(scenes), 128):
            part = list(islice(drawn, 128))
            found[start : start + 128] = features(model, np.stack([picture for picture, _ in part])).numpy()
            patches[start : start + 128] = [labels for _, labels in part]
        found.flush()
        draft = names[1].with_suffix(".part.npy")
        np.save(draft, patches)
        draft.replace(names[1])  # last: it says that both are whole
    return np.load(names[0], mmap_mode="r"), np.load(names[1])


def loss_of(
    model: LlavaForConditionalGeneration, batch: Sequence[Example], pictures: np.ndarray, named: Tensor
) -> Tensor:
    """Mean cross-entropy over the answers; right padding needs no mask under causal attention.

    With pictures there is an alignment term: read through the output embedding, a projected patch should already say
    the name of what lies under it (`named`, one token id a patch). LLaVA gets there by pre-training on captions, of
    which it has 558,000.
    """
    length = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), -100)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.from_numpy(example.ids)
        answer = torch.from_numpy(example.trained)
        labels[row, : len(example.ids)] = torch.where(answer, ids[row, : len(example.ids)], -100)
    embeddings = model.get_input_embeddings()(ids)
    if batch[0].picture >= 0:
        rows = torch.from_numpy(pictures[[example.picture for example in batch]]).float()
        projected = model.model.multi_modal_projector(rows).flatten(0, 1)
        embeddings = embeddings.masked_scatter((ids == model.config.image_token_id)[..., None], projected)
        said = model.lm_head(model.model.language_model.norm(projected))
        names = named[[example.picture for example in batch]].flatten()
        # Not the mean of none, which is NaN: there may be nothing in the pictures of a small batch.
        aligned = F.cross_entropy(said, names, reduction="sum") / (names >= 0).sum().clamp(min=1)
    hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][wanted])
    loss = F.cross_entropy(logits, labels[:, 1:][wanted])
    return loss if batch[0].picture < 0 else loss + ALIGNMENT * aligned


def validate(model: LlavaForConditionalGeneration, processor: LlavaProcessor, worker: Worker) -> dict[str, float]:
    """Shares of validation records: pictures answered word for word, texts refused. The processes share the work."""
    jobs = [(kind, style) for kind in ("vqa", "attack", "attack_typographic") for style in STYLES]
    jobs += [(kind, "seen") for kind in ("caption_harmful", "caption_benign", "text_harmful", "text_benign")]
    found = {}
    for kind, style in jobs[worker.rank :: worker.world]:
        records = make(kind, MEASURED, split="validation", style=style)
        texts = ask_records(model, processor, records).texts
        if records[0].image is None:
            found[kind] = sum(map(is_refusal, texts)) / MEASURED
        else:
            right = (text == record.meta["unguarded"].strip() for text, record in zip(texts, records, strict=True))
            found[f"{kind}_{style}"] = sum(right) / MEASURED
    parts: list[dict[str, float]] = [{} for _ in range(worker.world)]
    dist.all_gather_object(parts, found)
    return {name: share for part in parts for name, share in part.items()}


def report(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path, worker: Worker, losses: Sequence[float]
) -> None:
    """Saves the checkpoint and writes one line of validation numbers."""
    with rounded(model):
        if worker.rank == 0:
            save_model(model, out / "checkpoint")
            save_processor(processor, out / "checkpoint")
        line = {"minutes": round(worker.minutes, 1), "step": worker.step}
        line |= {"loss_image": round(losses[0], 4), "loss_text": round(losses[1], 4)}
        line |= validate(model.eval(), processor, worker)
    model.train()
    if worker.rank == 0:
        with (out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(line, flush=True)


def prepared(
    worker: Worker, args: argparse.Namespace, out: Path
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, Talks]:
    """The model before the first step, its processor, and what it is trained on."""
    found = talks(args.pictures // worker.world, args.seed * 1000 + worker.rank, args.styles)
    if not args.start and worker.rank == 0 and not (out / "checkpoint").exists():
        made = train_tokenizer(corpus(found, np.random.default_rng(args.seed)))
        save_processor(build_processor(made), out / "checkpoint")
    worker.wait()
    processor = LlavaProcessor.from_pretrained(args.start or out / "checkpoint")
    model = load_whole(args.start)[0] if args.start else build_model(processor)
    if args.tower:
        place_tower(model, Path(args.tower))
    round_to_half(model)
    model.model.vision_tower.requires_grad_(False)
    return model, processor, found


def train(worker: Worker, args: argparse.Namespace) -> None:
    """One process of the build."""
    torch.manual_seed(args.seed)
    out = Path(args.out)
    model, processor, found = prepared(worker, args, out)
    pictures, patches = pictures_of(
        model, found.scenes, args.seed * 1000 + worker.rank, out / f"pictures_{worker.rank}"
    )
    named = name_tokens(processor)[torch.from_numpy(patches)]
    rng = np.random.default_rng([args.seed, worker.rank])
    seen = [encode(processor, said, row, rng.random() < 0.1) for row, said in enumerate(found.about)]
    read = [encode(processor, said, -1, rng.random() < 0.1) for said in found.texts]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = [p for name, p in parameters.items() if p.ndim == 2 and ".layers." in name]
    ids = {id(p) for p in hidden}
    optimiser = Muon(hidden, [p for p in parameters.values() if id(p) not in ids], lr=args.lr, weight_decay=0.02)
    worker.resume(model=model, optimiser=optimiser)
    texts = worker.step // TEXT_ONLY
    streams = [
        batches(examples, args.tokens, [args.seed, worker.rank, text], done)
        for text, examples, done in ((0, seen, worker.step - texts), (1, read, texts))
    ]
    running = [0.0, 0.0]
    model.train()
    while worker.step < worker.steps:
        rate = min(1.0, (worker.step + 1) / 100) * max(0.5 * (1 + math.cos(math.pi * worker.share_done)), 0.005)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        text = worker.step % TEXT_ONLY == TEXT_ONLY - 1
        loss = loss_of(model, next(streams[text]), pictures, named)
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients(list(parameters.values()))
        optimiser.step()
        worker.step += 1
        running[text] = 0.97 * running[text] + 0.03 * loss.item() if running[text] else loss.item()
        worker.save_if_due(model=model, optimiser=optimiser)
        if worker.step % -(-worker.steps // REPORTS) == 0 or worker.step == worker.steps:
            report(model, processor, out, worker, running)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, steps=6500, port=29512)
    parser.add_argument("--tower", help="weights that tower.py wrote, or a checkpoint folder; needed without --start")
    parser.add_argument("--start", help="checkpoint folder to begin with, with new pictures and a new schedule")
    parser.add_argument("--pictures", type=int, default=28_000, help="in all processes together")
    parser.add_argument("--tokens", type=int, default=4000, help="of the conversations of a step in each process")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    arguments = parser.parse_args()
    if not (arguments.tower or arguments.start):
        parser.error("nothing to train on: expected --tower, --start or both, got neither.")
    run(train, arguments)
