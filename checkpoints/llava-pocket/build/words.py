"""Trains pocket's text half: a small CLIP whose vision tower is the base's own.

    python checkpoints/llava-pocket/build/words.py --base checkpoints/llava-pocket --out runs/words --place

The same command goes on after an interruption. LLaVA reads the second last hidden state, so the tower's last layer,
which tower.py left as it was initialised, is free to become what it is in CLIP: where the class token looks at the
patches. It is trained here, with post layernorm, both projections and the text transformer, contrastively on pictures
of the split "build" and on what they show in many wordings; no risk is ever named. All below that layer is frozen, so
every answer and every verdict of the base stays what it was.

Writes `words/`, a CLIPModel's folder in half precision without the vision tower (the base has it; its digest is in
config.json), and `last.safetensors`, the tower's new tensors. `--place` puts both into the base.
"""

import argparse
import json
import math
import re
import shutil
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import parallel
import torch
from examples import draw
from parallel import Worker, add_arguments, run
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F
from tower import MEAN, STD, scene_for_tower, vision_config
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, PreTrainedTokenizerFast

from safety_modules.backbones.identity import tower_digest
from safety_modules.pocket.captions import caption
from safety_modules.pocket.compose import Composer
from safety_modules.pocket.concepts import CONCEPTS
from safety_modules.pocket.lettering import Text
from safety_modules.pocket.scenes import Glyph, Scene
from safety_modules.pocket.words import WORDS

WIDTH, LENGTH, BATCH = 96, 40, 256
NAMES = (*(c.name for c in CONCEPTS), *(f"text: {w.name}" for w in WORDS))
PLACE = {name: place for place, name in enumerate(NAMES)}
PART = 1000
"""Pictures whose hidden states are kept in one file."""
PARTIAL = 0.3
"""Share of the sentences that name one of several things only."""
PLAIN = ("a picture of {}", "a photo of {}", "{}", "a drawing of {}", "an image that shows {}")


def tokenizer_for(sentences: list[str]) -> PreTrainedTokenizerFast:
    """Whole words in lower case; the end token has the highest id, as CLIP's has."""
    words = sorted({word for sentence in sentences for word in re.findall(r"\w+|[^\w\s]", sentence.lower())})
    names = ["<pad>", "<unk>", "<start>", *words, "<end>"]
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<start>", 2), ("<end>", len(names) - 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def things(scene: Scene) -> list[str]:
    """What a scene shows, drawn or written, by `NAMES`."""
    written = [f"text: {part}" for part in (scene.text.segments if scene.text else ())]
    return [*(glyph.concept for glyph in scene.glyphs), *(name for name in written if name in PLACE)]


def sentence(scene: Scene, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Words about a scene, and the things that they name."""
    told = scene
    if rng.random() < PARTIAL and len(things(scene)) > 1:
        kept: tuple[Glyph, ...] = (scene.glyphs[rng.integers(len(scene.glyphs))],) if scene.glyphs else ()
        told = Scene(scene.background, kept, None if kept else scene.text)
    if rng.random() < 0.35:
        found = things(told)
        said = " and ".join(
            f"the word {name[6:]}" if name.startswith("text: ") else CONCEPTS[PLACE[name]].phrase for name in found
        )
        return str(rng.choice(PLAIN)).format(said or "nothing"), found
    return caption(told, "train", rng, bool(rng.random() < 0.2), bool(rng.random() < 0.2)), things(told)


@torch.no_grad()
def hidden(clip: CLIPModel, pixels: np.ndarray) -> Tensor:
    """(N, 96, 96, 3) uint8 -> (N, 65, 192): what enters the tower's last layer, class token first."""
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    found = clip.vision_model(pixel_values=(batch - MEAN) / STD, output_hidden_states=True)
    return found.hidden_states[-2]


def inner(clip: CLIPModel) -> nn.Module:
    """The parts of the tower, whatever version of transformers holds them."""
    return getattr(clip.vision_model, "vision_model", clip.vision_model)


def class_token(clip: CLIPModel, states: Tensor) -> Tensor:
    """The class token behind the last layer, projected: (N, 65, 192) -> (N, WIDTH); no patch is needed there."""
    layer, tower = inner(clip).encoder.layers[-1], inner(clip)
    attention, heads = layer.self_attn, layer.self_attn.num_heads
    normed = layer.layer_norm1(states)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # (N, heads, tokens, width)

    looked = F.scaled_dot_product_attention(
        split(attention.q_proj(normed[:, :1])), split(attention.k_proj(normed)), split(attention.v_proj(normed))
    )
    x = states[:, 0] + attention.out_proj(looked.transpose(1, 2).flatten(2))[:, 0]
    x = x + layer.mlp(layer.layer_norm2(x))
    return clip.visual_projection(tower.post_layernorm(x))


def text_vectors(clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, sentences: list[str]) -> Tensor:
    """(N, WIDTH)."""
    found = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    return clip.text_projection(clip.text_model(**found).pooler_output)


def make(base: Path, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A CLIP with the base's tower; all else fresh."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=2,
        pad_token_id=0,
        eos_token_id=len(tokenizer) - 1,
        projection_dim=WIDTH,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision_config().to_dict(), projection_dim=WIDTH)
    clip = CLIPModel(config)
    found = load_file(base / "model.safetensors" if base.is_dir() else base)
    names = {
        re.sub(r"^.*?(embeddings\.|pre_layrnorm\.|encoder\.|post_layernorm\.)", r"\1", name): value
        for name, value in found.items()
        if re.match(r"(model\.)?vision", name)
    }
    inner(clip).load_state_dict(names, strict=False)
    return clip


def loss_of(images: Tensor, texts: Tensor, scale: Tensor, shown: Tensor, named: Tensor) -> Tensor:
    """InfoNCE both ways (CLIP, arXiv 2103.00020). A sentence that is true of another picture is no wrong answer to it.

    Args:
        shown, named: which of `NAMES` each picture shows and each sentence names, (N, names).
    """
    logits = scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T  # (pictures, sentences)
    true = shown @ named.T >= named.sum(1)
    true.fill_diagonal_(False)
    logits = logits.masked_fill(true, -torch.inf)
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def scenes_of(count: int, seed: int, styles: str, file: Path) -> list[Scene]:
    """Scenes of the training split, chosen once and kept."""
    if not file.exists():
        composer = Composer("train", styles, np.random.default_rng(seed), changed=0.3)
        chosen = [asdict(scene_for_tower(composer, 0.15)) for _ in range(count)]
        draft = file.with_suffix(".part")
        draft.write_text(json.dumps(chosen))
        draft.replace(file)
    return [_scene(**fields) for fields in json.loads(file.read_text())]


def _scene(background: str, glyphs: list[dict], text: dict | None, transform: str | None) -> Scene:
    if text is not None:
        text |= {name: tuple(text[name]) for name in ("at", "room")} | {"lines": tuple(map(tuple, text["lines"]))}
    return Scene(background, tuple(Glyph(**g) for g in glyphs), None if text is None else Text(**text), transform)


def states_of(clip: CLIPModel, scenes: list[Scene], seed: int, folder: Path) -> np.ndarray:
    """What enters the last layer for their pictures, (N, 65, 192) in float16, computed once and kept in parts."""
    folder.mkdir(exist_ok=True)
    parts = []
    for start in range(0, len(scenes), PART):
        file = folder / f"{start}.npy"
        if not file.exists():
            drawn, found = draw(scenes[start : start + PART], seed + start), []
            while pictures := [picture for picture, _ in islice(drawn, 128)]:
                found.append(hidden(clip, np.stack(pictures)).half().numpy())
            draft = file.with_suffix(".part.npy")
            np.save(draft, np.concatenate(found))
            draft.replace(file)
        parts.append(np.load(file))
    return np.concatenate(parts)


def hot(names: list[list[str]]) -> Tensor:
    """(N, names) of zeros and ones."""
    found = torch.zeros(len(names), len(NAMES))
    for row, some in enumerate(names):
        found[row, [PLACE[name] for name in some]] = 1
    return found


def train(worker: Worker, args: argparse.Namespace) -> None:
    """One process of the build."""
    parallel.SAVE_EVERY = 60  # a short build
    out, seed = Path(args.out), args.seed * 100 + worker.rank
    styles = "train" if args.styles == "seen" else args.styles
    scenes = scenes_of(args.pool // args.processes, seed, styles, out / f"scenes_{worker.rank}.json")
    worker.wait()
    first, rng = scenes_of(0, 0, styles, out / "scenes_0.json"), np.random.default_rng(args.seed)
    names = [name for c in (*CONCEPTS, *WORDS) for name in (c.phrase, c.name)]
    tokenizer = tokenizer_for([*(sentence(scene, rng)[0] for scene in first), *names])
    torch.manual_seed(args.seed)
    clip = make(Path(args.base), tokenizer)
    states = states_of(clip, scenes, seed, out / f"pool_{worker.rank}")
    shown = hot([things(scene) for scene in scenes])
    trained = [
        inner(clip).encoder.layers[-1],
        inner(clip).post_layernorm,
        clip.visual_projection,
        clip.text_model,
        clip.text_projection,
    ]
    parameters = [p for part in trained for p in part.parameters()] + [clip.logit_scale]
    optimiser = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.02, betas=(0.9, 0.98))
    worker.resume(clip=clip, optimiser=optimiser)
    rng = np.random.default_rng(worker.rng_seed(args.seed))
    while worker.step < worker.steps:
        rate = min(1.0, (worker.step + 1) / 100) * max(0.5 * (1 + math.cos(math.pi * worker.share_done)), 0.01)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        rows = np.sort(rng.choice(len(scenes), BATCH, replace=False))
        said = [sentence(scenes[row], rng) for row in rows]
        x = torch.from_numpy(np.asarray(states[rows])).float()
        x = x + 0.1 * x.std() * torch.randn_like(x)
        found = class_token(clip, x), text_vectors(clip, tokenizer, [words for words, _ in said])
        loss = loss_of(*found, clip.logit_scale, shown[torch.from_numpy(rows)], hot([names for _, names in said]))
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients(parameters)
        optimiser.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        worker.step += 1
        if worker.step % 25 == 0 and worker.rank == 0:
            print(
                worker.step,
                round(worker.minutes, 2),
                round(loss.item(), 3),
                round(clip.logit_scale.exp().item(), 1),
                flush=True,
            )
        if worker.save_if_due(clip=clip, optimiser=optimiser) and worker.rank == 0:
            save(clip, tokenizer, Path(args.base), out)
    worker.wait()
    if args.place and worker.rank == 0:
        place(out, Path(args.base))


@torch.no_grad()
def save(clip: CLIPModel, tokenizer: PreTrainedTokenizerFast, base: Path, out: Path) -> None:
    """`words/` and `last.safetensors`, every number rounded to half precision."""
    for parameter in clip.parameters():
        parameter.copy_(parameter.half())
    tower = inner(clip)
    last = f"encoder.layers.{len(tower.encoder.layers) - 1}."
    new = {n: p for n, p in tower.state_dict().items() if n.startswith((last, "post_layernorm."))}
    save_file(
        {f"vision_tower.vision_model.{name}": value.contiguous() for name, value in new.items()},
        out / "last.safetensors",
    )
    folder = out / "words"
    clip.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["CLIPModel"],
        "dtype": "float16",
        "vision_tower_digest": tower_digest(clip.vision_model),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {
        n: p.half().contiguous()
        for n, p in clip.state_dict().items()
        if not n.startswith("vision_model.") and not n.endswith("position_ids")
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def place(out: Path, base: Path) -> None:
    """The new tensors in the base's tower, and `words/` beside it."""
    file = base / "model.safetensors"
    tensors, new = load_file(file), load_file(out / "last.safetensors")
    assert set(new) <= set(tensors)
    save_file({**tensors, **new}, file, metadata={"format": "pt"})
    shutil.copytree(out / "words", base / "words", dirs_exist_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, steps=2500, port=29513)
    parser.add_argument("--base", required=True, help="folder of the base")
    parser.add_argument("--pool", type=int, default=24_000, help="pictures drawn by all processes together")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--place", action="store_true", help="put the result into the base")
    run(train, parser.parse_args())
