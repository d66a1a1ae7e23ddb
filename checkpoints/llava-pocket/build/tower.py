"""Trains pocket's vision tower: which concept or word lies under each patch.

    python checkpoints/llava-pocket/build/tower.py --out runs/tower --compile

The same command goes on after an interruption. It draws in the styles and fonts of the split "build" (see `glyphs`).
LLaVA reads the second last hidden state, so the loss sits there and the last layer is left as initialised. Pictures are
drawn once into pools on disk; each step mixes, moves and recolours them, as a person or a forger might. Writes
`tower.safetensors`, refreshed every few minutes, and `log.jsonl`.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from labels import BACKGROUND, CLASS_INDEX, CLASSES, GRID, NUMBERS, render_labelled, under_patches
from muon import Muon
from parallel import Worker, add_arguments, run
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel
from vary import vary

from safety_modules.pocket.compose import Composer
from safety_modules.pocket.concepts import CONCEPTS, EXCLUDING, RISKY, SENSITIVE
from safety_modules.pocket.language import choose
from safety_modules.pocket.scenes import PATCH, SIZE, Scene
from safety_modules.pocket.transforms import TRANSFORMS, transformed
from safety_modules.pocket.words import WORDS

# CLIP's own normalisation, as LLaVA's processor applies it.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
CLEAR, FIRST_TEXT = CLASS_INDEX[BACKGROUND], len(CONCEPTS)
# Changes that leave every pixel's class where it is; `vary` does the moving.
STILL = tuple(name for name, one in TRANSFORMS.items() if not one.moves)
Pool = tuple[np.ndarray, np.ndarray]
TEXTS = 0.36
"""Share of pictures with words."""


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


def scene_for_tower(composer: Composer, mosaics: float, texts: float = TEXTS) -> Scene:
    """A dense picture (four glyphs, or many words) with probability `mosaics`, else one as the language model sees; a
    share `texts` of both has words.
    """
    rng, words = composer.rng, [word.name for word in WORDS]

    def anything() -> str:
        # What is risky, or makes others so, is drawn more often than its number.
        roles = (RISKY, SENSITIVE, EXCLUDING) if rng.random() < 0.4 else ()
        return choose(rng, composer.drawable(*roles)).name

    dense, written, kind = rng.random() < mosaics, rng.random() < texts, rng.random()
    if dense and written:  # never asked about: dense supervision for reading
        return Scene(composer.colour(), text=composer.text(*(choose(rng, words) for _ in range(rng.integers(3, 8)))))
    if dense:
        return composer.corners([anything() for _ in range(4)])
    if written:
        word = choose(rng, words)
        return composer.typographic(word) if kind < 0.6 else composer.captioned(anything(), word)
    if kind < 0.52:
        return composer.single(anything())
    if kind < 0.88:
        first = anything()
        return composer.pair(first, composer.partner(first, composer.drawable()))
    return composer.corners([anything() for _ in range(3)])


def draw_pool(
    count: int,
    seed: int,
    styles: str,
    mosaics: float,
    changed: float,
    file: Path | None = None,
    texts: float = TEXTS,
) -> Pool:
    """(count, 96, 96, 3) uint8 pictures and (count, 96, 96) uint8 classes of their pixels.

    Args:
        mosaics, texts: of `scene_for_tower`.
        changed: share of strongly varied pictures, of which half are changed as by `STILL`, too.
        file: where to keep them; taken from there if it has them already.
    """
    names = [file.with_suffix(f".{part}.npy") for part in ("pixels", "classes")] if file else []
    if names and names[-1].exists():
        return np.load(names[0], mmap_mode="r"), np.load(names[1], mmap_mode="r")
    rng = np.random.default_rng(seed)
    composer = Composer("train", styles, rng)
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    classes = np.empty((count, SIZE, SIZE), np.uint8)
    for index in range(count):
        strong = bool(rng.random() < changed)
        picture, classes[index] = render_labelled(scene_for_tower(composer, mosaics, texts), rng, strong)
        if strong and rng.random() < 0.5:
            picture = transformed(picture, choose(rng, STILL), rng)
        pixels[index] = picture
    for name, part in zip(names, (pixels, classes), strict=bool(names)):
        draft = name.with_suffix(".part.npy")
        np.save(draft, part)
        draft.replace(name)
    return pixels, classes


def mix(pixels: Tensor, classes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Cut-mix of halves and channel permutation; (B, 3, 96, 96) and (B, 96, 96) in and out."""
    half = SIZE // 2
    if rng.random() < 0.5:
        order = torch.from_numpy(rng.permutation(len(pixels)))
        chosen = torch.from_numpy(rng.random(len(pixels)) < 0.5)
        pixels[chosen, :, half:] = pixels[order][chosen, :, half:]
        classes[chosen, half:] = classes[order][chosen, half:]
    permuted = torch.from_numpy(rng.random(len(pixels)) < 0.15)
    pixels[permuted] = pixels[permuted][:, rng.permutation(3).tolist()]
    return pixels, classes


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
def accuracy(tower: Tower, pool: Pool) -> tuple[float, float]:
    """Share of patches named right, over glyph patches and over text patches."""
    hits, total = np.zeros(2), np.zeros(2)
    for start in range(0, len(pool[0]), 128):
        pixels = torch.from_numpy(pool[0][start : start + 128]).permute(0, 3, 1, 2).float() / 255
        labels = under_patches(torch.from_numpy(pool[1][start : start + 128]))
        right = tower((pixels - MEAN) / STD).argmax(-1) == labels
        for part, chosen in enumerate((labels < FIRST_TEXT, (labels >= FIRST_TEXT) & (labels != CLEAR))):
            hits[part] += right[chosen].sum().item()
            total[part] += chosen.sum().item()
    return float(hits[0] / total[0]), float(hits[1] / total[1])


def draw_batch(pools: list[Pool], size: int, mosaics: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """(size, 3, 96, 96) normalised, mixed and varied pictures, a share `mosaics` from the second pool, and labels."""
    dense = int(size * mosaics)
    rows = [
        np.sort(rng.integers(len(pool[0]), size=count))
        for pool, count in zip(pools, (size - dense, dense), strict=True)
    ]
    pixels, classes = (
        torch.from_numpy(np.concatenate([pool[part][chosen] for pool, chosen in zip(pools, rows, strict=True)]))
        for part in (0, 1)
    )
    pictures, classes = mix(pixels.permute(0, 3, 1, 2).float() / 255, classes, rng)
    pictures, classes = vary(pictures, classes, CLEAR, rng)
    return (pictures - MEAN) / STD, under_patches(classes)


def train(worker: Worker, args: argparse.Namespace) -> None:
    """One process of the build."""
    torch.manual_seed(args.seed)
    tower, out = Tower(), Path(args.out)
    if args.start:
        tower.load_state_dict(load_file(args.start))
    styles = "train" if args.styles == "seen" else args.styles
    pools = [
        draw_pool(
            args.pool // 2,
            args.seed * 100 + worker.rank * 2 + part,
            styles,
            part,
            0.8,
            out / f"pool_{worker.rank}_{part}",
            args.texts,
        )
        for part in (0, 1)
    ]
    held: dict[str, Pool] = {}
    if worker.rank == 0:
        for number, split in enumerate(("train", "validation")):
            held[split] = draw_pool(512, 9000 + number, split, 0.0, 0.0)
            held[f"{split}_changed"] = draw_pool(512, 9100 + number, split, 0.0, 1.0)
    unused = ("layers.4.", "post_layer")  # the last layer, which LLaVA does not read
    used = {n: p for n, p in tower.named_parameters() if not any(part in n for part in unused)}
    hidden = [p for n, p in used.items() if p.ndim == 2 and ".layers." in n]
    other = [p for n, p in used.items() if not (p.ndim == 2 and ".layers." in n)]
    optimiser = Muon(hidden, other, lr=args.lr, weight_decay=0.05)
    model = torch.compile(tower) if args.compile else tower
    weight = torch.ones(len(CLASSES))
    weight[CLEAR] = 0.12
    weight[FIRST_TEXT : CLASS_INDEX[NUMBERS]] = 1.3
    worker.resume(tower=tower, optimiser=optimiser)
    rng, running = np.random.default_rng(worker.rng_seed(args.seed)), 0.0
    while worker.step < worker.steps:
        share = worker.share_done
        rate = min(1.0, (worker.step + 1) / 150) * max(0.5 * (1 + math.cos(math.pi * share)), 0.005)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        pixels, labels = draw_batch(pools, args.batch, 0.6 if share < 0.6 else 0.35, rng)
        logits = model(pixels)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight)
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients([*hidden, *other], clip=1.0 if worker.step > 50 else None)
        optimiser.step()
        worker.step += 1
        running = loss.item() if running == 0 else 0.98 * running + 0.02 * loss.item()
        if worker.save_if_due(tower=tower, optimiser=optimiser) and worker.rank == 0:
            report(out, tower, held, worker, worker.step * worker.world * args.batch, running)


def report(out: Path, tower: Tower, held: dict[str, Pool], worker: Worker, seen: int, loss: float) -> None:
    """Saves the weights and writes one line about them."""
    save_file(tower.state_dict(), out / "tower.safetensors")
    line = {"minutes": round(worker.minutes, 1), "step": worker.step, "images": seen, "loss": round(loss, 4)}
    for name, pool in held.items():
        glyphs, text = accuracy(tower, pool)
        line |= {f"glyph_{name}": round(glyphs, 4), f"text_{name}": round(text, 4)}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, steps=20_000, port=29511)
    parser.add_argument("--start", help="tower.safetensors to begin with, with new pictures and a new schedule")
    parser.add_argument("--texts", type=float, default=TEXTS, help="share of pictures with words")
    parser.add_argument("--pool", type=int, default=50_000, help="pictures drawn by each process")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step in each process")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    parser.add_argument("--compile", action="store_true", help="a tenth faster; needs a C++ compiler")
    run(train, parser.parse_args())
