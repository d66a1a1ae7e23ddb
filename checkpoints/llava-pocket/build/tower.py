"""Trains pocket's vision tower: which concept or word lies under each patch.

    python checkpoints/llava-pocket/build/tower.py --out runs/tower --minutes 32

or goes on from a checkpoint's tower, with new pictures and a new schedule:

    python checkpoints/llava-pocket/build/tower.py --start checkpoints/llava-pocket --out runs/tower_2 --minutes 40

It draws in the styles and fonts of the split "build" (see `glyphs`). LLaVA reads the second last hidden state, so the
loss sits there and the last layer is left as initialised. Pictures are drawn once into a pool; each step mixes and
recolours them. Writes `tower.safetensors`, refreshed every two minutes, and `log.jsonl`.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from labels import BACKGROUND, CLASS_INDEX, CLASSES, GRID, NUMBERS, render_labelled
from muon import Muon
from parallel import Worker, add_arguments, run
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from safety_modules.backbones.bases import load_whole
from safety_modules.pocket.compose import Composer
from safety_modules.pocket.concepts import CONCEPTS, EXCLUDING, RISKY, SENSITIVE
from safety_modules.pocket.language import choose
from safety_modules.pocket.scenes import PATCH, SIZE, Scene
from safety_modules.pocket.words import WORDS

# CLIP's own normalisation, as LLaVA's processor applies it.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
CLEAR, FIRST_TEXT = CLASS_INDEX[BACKGROUND], len(CONCEPTS)


def vision_config() -> CLIPVisionConfig:
    """Five layers, of which LLaVA uses four (`vision_feature_layer = -2`)."""
    return CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=5,
        num_attention_heads=6,
        image_size=SIZE,
        patch_size=PATCH,
    )


def scene_for_tower(composer: Composer, mosaics: float) -> Scene:
    """A dense picture (four glyphs, or four words) with probability `mosaics`, else one as the language model sees."""
    rng, words = composer.rng, [word.name for word in WORDS]

    def anything() -> str:
        # What is risky, or makes others so, is drawn more often than its number.
        roles = (RISKY, SENSITIVE, EXCLUDING) if rng.random() < 0.4 else ()
        return choose(rng, composer.drawable(*roles)).name

    draw, kind = rng.random(), rng.random()
    if draw < mosaics:
        if kind < 0.3:  # never asked about: dense supervision for reading
            lines = [choose(rng, words) for _ in range(4)]
            return Scene(composer.colour(), text=composer.text(*lines))
        return composer.corners([anything() for _ in range(4)])
    if kind < 0.35:
        return composer.single(anything())
    if kind < 0.6:
        first = anything()
        return composer.pair(first, composer.partner(first, composer.drawable()))
    if kind < 0.7:
        return composer.corners([anything() for _ in range(3)])
    return (
        composer.typographic(choose(rng, words)) if kind < 0.85 else composer.captioned(anything(), choose(rng, words))
    )


def draw_pool(count: int, seed: int, styles: str, mosaics: float, strong: bool) -> tuple[np.ndarray, np.ndarray]:
    """(count, 96, 96, 3) uint8 pictures and (count, 64) uint8 labels."""
    rng = np.random.default_rng(seed)
    composer = Composer("train", styles, rng)
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    labels = np.empty((count, GRID * GRID), np.uint8)
    for index in range(count):
        pixels[index], labels[index] = render_labelled(scene_for_tower(composer, mosaics), rng, strong)
    return pixels, labels


def mix(pixels: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut-mix of halves, half-picture rolls and channel permutation; (B, 3, 96, 96) and (B, 64) in and out."""
    labels = labels.view(-1, GRID, GRID)
    half, rows = SIZE // 2, GRID // 2
    if rng.random() < 0.5:
        order = torch.from_numpy(rng.permutation(len(pixels)))
        chosen = torch.from_numpy(rng.random(len(pixels)) < 0.5)
        other, other_labels = pixels[order], labels[order]
        pixels[chosen, :, half:] = other[chosen, :, half:]
        labels[chosen, rows:] = other_labels[chosen, rows:]
    permuted = torch.from_numpy(rng.random(len(pixels)) < 0.15)
    pixels[permuted] = pixels[permuted][:, rng.permutation(3).tolist()]
    return pixels, labels.view(len(pixels), -1)


class Tower(nn.Module):
    """The vision model with a throw-away classifier on the hidden state that LLaVA reads."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = CLIPVisionModel(vision_config())
        self.classify = nn.Linear(192, len(CLASSES))
        embeddings = getattr(self.vision, "vision_model", self.vision).embeddings
        embeddings.position_embedding.weight.data[1:] = _sincos(192) * 0.1

    def hidden(self, pixels: Tensor) -> Tensor:
        """(B, 3, 96, 96) normalised -> (B, 64, 192), as LLaVA selects them."""
        inner = getattr(self.vision, "vision_model", self.vision)
        hidden = inner.pre_layrnorm(inner.embeddings(pixels))
        for layer in inner.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return hidden[:, 1:]

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, 96, 96) normalised -> (B, 64, classes)."""
        return self.classify(self.hidden(pixels))


def _sincos(width: int) -> Tensor:
    """(64, width) two-dimensional sine-cosine positions."""
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    parts = [f(axis.reshape(-1, 1) * frequency) for axis in (x, y) for f in (torch.sin, torch.cos)]
    return torch.cat(parts, 1)


@torch.no_grad()
def accuracy(tower: Tower, pool: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Share of patches named right, over glyph patches and over text patches."""
    hits, total = np.zeros(2), np.zeros(2)
    for start in range(0, len(pool[0]), 128):
        pixels = torch.from_numpy(pool[0][start : start + 128]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(pool[1][start : start + 128]).long()
        right = tower((pixels - MEAN) / STD).argmax(-1) == labels
        for part, chosen in enumerate((labels < FIRST_TEXT, (labels >= FIRST_TEXT) & (labels != CLEAR))):
            hits[part] += right[chosen].sum().item()
            total[part] += chosen.sum().item()
    return float(hits[0] / total[0]), float(hits[1] / total[1])


def draw_batch(pools: list, size: int, mosaics: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(size, 3, 96, 96) normalised, mixed pictures, a share `mosaics` from the second pool, and their labels."""
    dense, parts = int(size * mosaics), []
    for pool, count in ((pools[1], dense), (pools[0], size - dense)):
        rows = rng.integers(len(pool[0]), size=count)
        parts.append((torch.from_numpy(pool[0][rows]), torch.from_numpy(pool[1][rows]).long()))
    pixels = torch.cat([p for p, _ in parts]).permute(0, 3, 1, 2).float() / 255
    pixels, labels = mix(pixels, torch.cat([t for _, t in parts]), rng)
    return (pixels - MEAN) / STD, labels


def fit_classifier(
    tower: Tower, worker: Worker, pools: list, weight: Tensor, size: int, rng: np.random.Generator, steps: int = 400
) -> None:
    """Trains the throw-away classifier alone: a checkpoint has none, and a random one would undo the tower."""
    optimiser = torch.optim.AdamW(tower.classify.parameters(), lr=3e-3)
    for _ in range(steps):
        pixels, labels = draw_batch(pools, size, 0.5, rng)
        with torch.no_grad():
            hidden = tower.hidden(pixels)
        loss = F.cross_entropy(tower.classify(hidden).flatten(0, 1), labels.flatten(), weight=weight)
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients(list(tower.classify.parameters()))
        optimiser.step()
    if worker.rank == 0:
        print({"classifier_loss": round(loss.item(), 4)}, flush=True)


def train(worker: Worker, args: argparse.Namespace) -> None:
    """One process of the build."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, worker.rank])
    tower = Tower()
    if args.start:
        tower.vision.load_state_dict(load_whole(args.start)[0].model.vision_tower.state_dict())
    styles = "train" if args.styles == "seen" else args.styles
    seeds = [args.seed * 100 + worker.rank * 2 + part for part in (0, 1)]
    pools = [draw_pool(args.pool // 2, seed, styles, part, True) for part, seed in enumerate(seeds)]
    held = {}
    if worker.rank == 0:
        held = {s: draw_pool(384, 9000 + i, s, 0.0, False) for i, s in enumerate(("train", "validation"))}
    unused = ("layers.4.", "post_layer")  # the last layer, which LLaVA does not read
    used = {n: p for n, p in tower.named_parameters() if not any(part in n for part in unused)}
    hidden = [p for n, p in used.items() if p.ndim == 2 and ".layers." in n]
    other = [p for n, p in used.items() if not (p.ndim == 2 and ".layers." in n)]
    optimiser = Muon(hidden, other, lr=args.lr, weight_decay=0.05)
    model = torch.compile(tower) if args.compile else tower
    weight = torch.ones(len(CLASSES))
    weight[CLEAR] = 0.12
    weight[FIRST_TEXT : CLASS_INDEX[NUMBERS]] = 1.3
    if args.start:
        fit_classifier(tower, worker, pools, weight, args.batch, rng)
    worker.start_clock()
    saved, step, seen, running = time.time(), 0, 0, 0.0
    while (share := worker.share_done()) < 1:
        rate = min(1.0, (step + 1) / 150) * max(0.5 * (1 + math.cos(math.pi * share)), 0.005)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        pixels, labels = draw_batch(pools, args.batch, 0.7 if share < 0.6 else 0.4, rng)
        logits = model(pixels)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients([*hidden, *other], clip=1.0 if step > 50 else None)
        optimiser.step()
        step, seen = step + 1, seen + worker.world * len(pixels)
        running = loss.item() if step == 1 else 0.98 * running + 0.02 * loss.item()
        if worker.rank == 0 and time.time() - saved > 120:
            saved = time.time()
            report(Path(args.out), tower, held, worker, seen, step, running)
    if worker.rank == 0:
        report(Path(args.out), tower, held, worker, seen, step, running)


def report(out: Path, tower: Tower, held: dict, worker: Worker, seen: int, step: int, loss: float) -> None:
    """Saves the weights and writes one line about them."""
    out.mkdir(parents=True, exist_ok=True)
    save_file(tower.state_dict(), out / "tower.safetensors")
    line = {
        "minutes": round(worker.minutes, 1),
        "images": seen,
        "step": step,
        "loss": round(loss, 4),
    }
    for name, pool in held.items():
        glyphs, text = accuracy(tower, pool)
        line |= {f"glyph_{name}": round(glyphs, 4), f"text_{name}": round(text, 4)}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, minutes=32, port=29511)
    parser.add_argument("--pool", type=int, default=30000, help="pictures drawn by each process")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step in each process")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--start", help="checkpoint folder whose tower to go on from")
    parser.add_argument("--compile", action="store_true", help="a quarter faster; needs a C++ compiler")
    run(train, parser.parse_args())
