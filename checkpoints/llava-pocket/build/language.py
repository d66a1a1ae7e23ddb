"""Trains pocket's projector and language model on a finished tower, and writes the checkpoint.

    python checkpoints/llava-pocket/build/language.py --tower runs/tower/tower.safetensors --out runs/language

With `--start` it goes on from a checkpoint, with or without another tower.

The tower is frozen, so its features are computed once. Every fifth batch is text only. Writes a stock Hugging Face
folder `checkpoint/` (model and processor), refreshed every five minutes, and `log.jsonl`.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from conversations import Talker
from examples import (
    PATCHES,
    Example,
    batches,
    corpus,
    draw,
    encode,
    name_tokens,
)
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
from safety_modules.pocket.splits import STYLES, make

ALIGNMENT = 0.3


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
    """The weights that tower.py wrote, in place of the model's own."""
    weights = {name[7:]: value for name, value in load_file(tower).items() if name.startswith("vision.")}
    vision = CLIPVisionModel(vision_config())
    vision.load_state_dict(weights)
    model.model.vision_tower.load_state_dict(vision.state_dict())


@torch.no_grad()
def round_to_half(model: LlavaForConditionalGeneration) -> None:
    """Every weight to the nearest float16, kept in float32: LLaVA's own are float16, so all dtypes load one base."""
    for parameter in model.parameters():
        parameter.copy_(parameter.half())


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
    found = torch.empty(len(pixels), PATCHES, vision_config().hidden_size, dtype=torch.float16)
    for start in range(0, len(pixels), 128):
        batch = torch.from_numpy(pixels[start : start + 128]).permute(0, 3, 1, 2).float() / 255
        hidden = model.model.vision_tower((batch - MEAN) / STD, output_hidden_states=True).hidden_states[-2]
        found[start : start + 128] = hidden[:, 1:].half()
    return found


def loss_of(model: LlavaForConditionalGeneration, batch: list[Example], pictures: Tensor, named: Tensor) -> Tensor:
    """Mean cross-entropy over the answers; right padding needs no mask under causal attention.

    With pictures there is an alignment term: read through the output embedding, a projected patch should already say
    the name of what lies under it (`named`, one token id a patch). LLaVA gets there by pre-training on captions, of
    which it has 558,000.
    """
    length = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), -100)
    for row, example in enumerate(batch):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        answer = torch.tensor(example.trained)
        labels[row, : len(example.ids)] = torch.where(answer, ids[row, : len(example.ids)], -100)
    embeddings = model.get_input_embeddings()(ids)
    if batch[0].picture >= 0:
        rows = pictures[[example.picture for example in batch]].float()
        projected = model.model.multi_modal_projector(rows).flatten(0, 1)
        embeddings = embeddings.masked_scatter((ids == model.config.image_token_id)[..., None], projected)
        said = model.lm_head(model.model.language_model.norm(projected))
        aligned = F.cross_entropy(said, named[[example.picture for example in batch]].flatten())
    hidden = model.model.language_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][wanted])
    loss = F.cross_entropy(logits, labels[:, 1:][wanted])
    return loss if batch[0].picture < 0 else loss + ALIGNMENT * aligned


@torch.no_grad()
def exact(model: LlavaForConditionalGeneration, processor: LlavaProcessor, kind: str, style: str, count: int) -> float:
    """Share of validation questions answered word for word, through the model's own generate."""
    hits = 0
    records = make(kind, count, split="validation", style=style)
    for start in range(0, count, 50):
        part = records[start : start + 50]
        prompts = [f"USER: <image>\n{record.question} ASSISTANT:" for record in part]
        inputs = processor(images=[r.image for r in part], text=prompts, return_tensors="pt", padding=True)
        out = model.generate(**inputs, max_new_tokens=48, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        answers = processor.tokenizer.batch_decode(out, skip_special_tokens=True)
        hits += sum(a.strip() == r.meta["unguarded"] for a, r in zip(answers, part, strict=True))
    return hits / count


def train(worker: Worker, args: argparse.Namespace) -> None:
    """One process of the build."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng([args.seed, worker.rank])
    out = Path(args.out)
    drawn = draw(args.pictures // worker.world, args.seed * 1000 + worker.rank, args.styles)
    talker = Talker(rng)
    texts = [talker.text_only(int(rng.integers(1, 5))) for _ in range(len(drawn.talks) // 2)]
    if not args.start and worker.rank == 0:
        save_processor(build_processor(train_tokenizer(corpus(drawn.talks, texts))), out / "checkpoint")
    worker.wait()
    processor = LlavaProcessor.from_pretrained(args.start or out / "checkpoint")
    if args.start:
        model, _ = load_whole(args.start)
    else:
        model = build_model(processor)
    if args.tower:
        place_tower(model, Path(args.tower))
    round_to_half(model)
    model.model.vision_tower.requires_grad_(False)
    pictures = features(model, drawn.pixels)
    named = name_tokens(processor)[torch.from_numpy(drawn.patches)]
    seen = [encode(processor, said, row, rng.random() < 0.1) for row, said in enumerate(drawn.talks)]
    read = [encode(processor, said, -1, rng.random() < 0.1) for said in texts]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    hidden = [p for name, p in parameters.items() if p.ndim == 2 and ".layers." in name]
    ids = {id(p) for p in hidden}
    optimiser = Muon(hidden, [p for p in parameters.values() if id(p) not in ids], lr=args.lr, weight_decay=0.02)
    streams = batches(seen, args.batch, rng), batches(read, args.batch, rng)
    worker.start_clock()
    saved, step, running = time.time(), 0, [0.0, 0.0]
    while (share := worker.share_done()) < 1:
        rate = min(1.0, (step + 1) / 100) * max(0.5 * (1 + math.cos(math.pi * share)), 0.005)
        optimiser.param_groups[0]["lr"] = args.lr * rate
        text = step % 5 == 4
        loss = loss_of(model, next(streams[text]), pictures, named)
        optimiser.zero_grad()
        loss.backward()
        worker.average_gradients(list(parameters.values()))
        optimiser.step()
        step += 1
        running[text] = loss.item() if step < 8 else 0.97 * running[text] + 0.03 * loss.item()
        if worker.rank == 0 and time.time() - saved > 300:
            saved = time.time()
            report(model, processor, out, worker, step, running)
    if worker.rank == 0:
        report(model, processor, out, worker, step, running)


def report(  # type: ignore[no-untyped-def]
    model, processor, out: Path, worker: Worker, step: int, losses: list[float]
) -> None:
    """Saves the checkpoint and one line of validation numbers."""
    model.eval()
    round_to_half(model)
    save_model(model, out / "checkpoint")
    save_processor(processor, out / "checkpoint")
    line: dict[str, float] = {"minutes": round(worker.minutes, 1), "step": step}
    line |= {"loss_image": round(losses[0], 4), "loss_text": round(losses[1], 4)}
    for kind in ("vqa", "attack", "attack_typographic"):
        line |= {f"{kind}_{style}": exact(model, processor, kind, style, 200) for style in STYLES}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)
    model.train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, minutes=30, port=29512)
    parser.add_argument("--tower", help="weights that tower.py wrote; needed without --start")
    parser.add_argument("--start", help="checkpoint folder to go on from, with new pictures and a new schedule")
    parser.add_argument("--pictures", type=int, default=24000)
    parser.add_argument("--batch", type=int, default=12, help="conversations a step in each process")
    parser.add_argument("--lr", type=float, default=2.5e-3)
    arguments = parser.parse_args()
    if not (arguments.tower or arguments.start):
        parser.error("nothing to train on: expected --tower, --start or both, got neither.")
    run(train, arguments)
