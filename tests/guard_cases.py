"""What the tests of the guarded call share: a mixed batch, and references that do by hand what the guard does."""

import copy

import torch
from transformers.generation.streamers import BaseStreamer

from safety_modules.attach import attach_safety
from safety_modules.config import SafetyConfig
from safety_modules.training.corpus import Corpus
from safety_modules.training.predictions import corpus_judgements

NEW = {"max_new_tokens": 6, "do_sample": False}
# For the fixture `guarded`, image 1 is of a high risk, image 2 of a low one, all others are clean.
ROWS = [
    ("what is this?", [1]),
    ("how do I use what is shown here?", [5]),
    ("tell me", []),
    ("and which of these two?", [6, 2]),
    ("why?", [7]),
    ("what else?", [2]),
    ("what do all three of them show?", [8, 2, 1]),
]
RISKY, CLEAN, CLEAN_IMAGES = [0, 3, 5, 6], [1, 2, 4], [1, 4]
IMAGES = 9


def answers(sequences, inputs):
    """The new tokens."""
    return sequences[:, inputs["input_ids"].shape[1] :]


def rows_of(inputs, rows, images):
    """A sub-batch with its original padding."""
    part = {name: inputs[name][rows] for name in ("input_ids", "attention_mask")}
    seen = [name for name in ("pixel_values", "image_sizes", "batch_num_images") if images and name in inputs]
    return part | {name: inputs[name][images] for name in seen}


def steered_by_hand(safety, ids, pixels, on, hint, **options):
    """Reference for one risky prompt: embeddings built by hand, the base's generate on them, LoRA on."""
    backbone, tokens = safety.backbone, safety.modules.lm_tokens().detach()
    ids = backbone.insert_hint(ids.tolist(), hint)
    features = iter(backbone.encode_images(pixels).projected)
    pieces, at, image = [], 0, 0
    while at < len(ids):
        if ids[at] == backbone.image_token_id:
            feature = next(features)
            pieces.append(torch.cat([tokens, feature]) if on[image] else feature)
            at, image = at + len(feature), image + 1
        else:
            pieces.append(backbone.embed_text(torch.tensor([[ids[at]]]))[0])
            at += 1
    embeds = torch.cat(pieces)[None]
    with safety.disabled(), safety.lora.mounted():
        return backbone.base_generate(inputs_embeds=embeds, **options)[0]


def greedy_by_hand(model, prepared, steps, leave_between=False):
    """Reference for a decoding loop of one's own: greedy, a prepared call, no end of sequence. (rows, steps) ids."""
    inputs, found, cache = prepared.inputs, [], None
    while len(found) < steps:
        with prepared.running():
            for _ in range(1 if leave_between else steps):
                output = model(**inputs, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                found.append(output.logits[:, -1].argmax(-1, keepdim=True))
                mask = torch.cat([inputs["attention_mask"], torch.ones_like(found[-1])], 1)
                inputs = {
                    "input_ids": found[-1],
                    "attention_mask": mask,
                    "position_ids": inputs["position_ids"][:, -1:] + 1,
                }
    return torch.cat(found, 1)


class Recorder(BaseStreamer):
    """Notes what it is given."""

    def __init__(self):
        self.values, self.ended = [], 0

    def put(self, value):
        self.values.append(value)

    def end(self):
        self.ended += 1


def attach_as_trained(model, processor, *args, **kwargs):
    """New modules that count as trained: what they say is noise, but they guard and can be saved."""
    attachment = attach_safety(model, processor, *args, **kwargs)
    attachment.trained = True
    return attachment


def save_base(folder, base, processor):
    """A base as a folder."""
    base.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_adapter(folder, base, processor, pictures):
    """An untrained adapter for a base, with thresholds that flag about half of the pictures."""
    safety = attach_as_trained(copy.deepcopy(base), processor, config=SafetyConfig(lora=None))
    with torch.no_grad():
        for member in safety.modules.members:
            member.head.type_weight.mul_(3)  # spread, and far from the risk of 1 that rounding reaches
    scores = sorted(max(verdict.scores.values()) for verdict in safety.classify(pictures))
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, scores[len(scores) // 2])
    return safety.save_pretrained(folder)


def judged(attachment, records):
    """What the head says of records in bulk, from features: `scores.Judgements`."""
    return corpus_judgements(attachment, Corpus.make(attachment.backbone, records, None, False, attachment.modules))
