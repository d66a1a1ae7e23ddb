"""A CLIP whose vision tower is a base's own: its text half, and how its last layer is read. Only this file knows its
attribute names.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from safety_modules.backbones import Backbone
from safety_modules.backbones.bases import find_base
from safety_modules.backbones.weights import unwrapped, weights
from safety_modules.errors import ConfigError

BATCH_SIZE = 256
"""Sentences that go through the text half at once."""
ROUNDED = 1 / 128
"""Relative difference of two weights that are one, rounded to bfloat16 each or not."""
EPS = 1e-5
"""Of the norms of every CLIP, and so of the head that reads its last layer."""
DIGEST = "vision_tower_digest"
"""Key of config.json where the folder leaves the tower to the base: what that has to be."""


class Clip:
    """A CLIPModel of transformers beside a base.

    Args:
        name: folder, shipped name's folder or hub id.
        backbone: the base, whose vision tower has to be this CLIP's.

    Raises:
        ConfigError: no CLIP, one that is not whole, or one of another tower than the base's.
    """

    def __init__(self, name: str | PathLike[str], backbone: Backbone) -> None:
        from transformers import AutoTokenizer, CLIPConfig, CLIPModel

        folder = find_base(name)
        self.name = str(name)
        config = _config(folder)
        if config.get("model_type") != "clip":
            raise _refused(
                name, f"expected model_type 'clip' in {folder / 'config.json'}, got {config.get('model_type')!r}"
            )
        if not [*folder.glob("*.safetensors")]:
            raise _refused(
                name,
                f"expected safetensors in {folder}, got none",
                "Pickled weights are not opened: where you trust them, "
                "CLIPModel.from_pretrained(...).save_pretrained(FOLDER) writes others.",
            )
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            with _quietly():  # what is missing is told below
                self.model, found = CLIPModel.from_pretrained(
                    folder, config=CLIPConfig.from_pretrained(folder), dtype=torch.float32, output_loading_info=True
                )
        except Exception as error:  # transformers raises kinds of its own for what it cannot read
            raise _refused(name, f"expected a CLIPModel and its tokenizer in {folder}, got {error}") from error
        self.model.eval().requires_grad_(False)
        missing = {str(one) for one in found.get("missing_keys", ())}
        wrong = {str(one).split(" ")[0].strip("('\"") for one in found.get("mismatched_keys", ())}
        towers = {f"vision_model.{one}" for one, _ in self.model.vision_model.named_parameters()}
        if missing >= towers and not wrong:
            self._take_tower(backbone, config.get(DIGEST))
            missing -= towers
        if missing or wrong:
            some = ", ".join(sorted(missing | wrong)[:5])
            raise _refused(name, f"expected every tensor, got none or another shape for {some}", "Download it again.")
        self._check_tower(backbone)
        if self._tower.post_layernorm.eps != EPS:
            raise _refused(name, f"expected norms with an eps of {EPS}, got {self._tower.post_layernorm.eps}")

    def _take_tower(self, backbone: Backbone, digest: Any) -> None:
        """The base's tower, where the folder leaves it out and says which it is."""
        if (got := backbone.tower_digest()) != digest:
            raise _refused(
                self.name,
                f"expected the base's tower to have the digest {str(digest)[:16]!r} of its config.json, got {got[:16]}",
                "Name the CLIP that this base was made with.",
            )
        own = dict(self._tower.named_parameters())
        with torch.no_grad():
            for path, tensor in weights(unwrapped(backbone.vision_tower)):
                own[path.removeprefix("vision_model.")].copy_(tensor)

    def _check_tower(self, backbone: Backbone) -> None:
        """Refuse another tower than the base's, to the last layer; only the norm behind it, which no LLaVA uses, may
        differ.
        """
        own = dict(self._tower.named_parameters())
        live = unwrapped(backbone.vision_tower)
        names = set()
        for path, tensor in weights(live):
            path = path.removeprefix("vision_model.")
            names.add(path)
            if path.startswith("post_layernorm."):
                continue
            if not tensor.is_floating_point():
                raise _refused(
                    self.name,
                    f"expected the base's vision tower as it is, got {path} quantised",
                    "Load the base without quantising its tower.",
                )
            known = own.get(path)
            if known is None or known.shape != tensor.shape:
                shape = "none" if known is None else f"one of shape {tuple(known.shape)}"
                raise self._other(f"{path} of shape {tuple(tensor.shape)}", shape)
            gap = (known - tensor.to(known)).abs() - ROUNDED * known.abs()
            if not bool((gap <= 1e-5).all()):
                raise self._other(
                    f"the base's own numbers in {path}", f"others ({float((gap > 1e-5).float().mean()):.0%})"
                )
        if more := sorted(set(own) - names):
            raise self._other(f"a tower of {len(names)} tensors", f"one that has {more[0]} too")

    def _other(self, expected: str, got: str) -> ConfigError:
        return _refused(
            self.name,
            f"expected {expected}, got {got}: another vision tower than the base's",
            "Name the CLIP that the base was made from, such as openai/clip-vit-large-patch14-336 for LLaVA-1.5.",
        )

    @property
    def _tower(self) -> Any:
        return getattr(self.model.vision_model, "vision_model", self.model.vision_model)

    @property
    def width(self) -> int:
        """Of the space that pictures and sentences share."""
        return int(self.model.visual_projection.out_features)

    @property
    def scale(self) -> float:
        """By which it multiplies cosines."""
        return math.exp(float(self.model.logit_scale))

    @torch.no_grad()
    def last_layer(self) -> dict[str, torch.Tensor]:
        """Of a patch that enters the last layer the value path, and the way into the shared space, each as one linear
        map of what is normed: `value.weight`, `value.bias`, `project.weight`, `project.bias`.
        """
        layer = self._tower.encoder.layers[-1]
        attention, norm, last = layer.self_attn, layer.layer_norm1, self._tower.post_layernorm
        value = _then(attention.v_proj, attention.out_proj)
        project = self.model.visual_projection.weight, torch.zeros(self.width)
        return {**_named("value", _behind(norm, *value)), **_named("project", _behind(last, *project))}

    @torch.no_grad()
    def directions(self, sentences: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
        """(S, width): of each sentence the mean over the templates of its unit vectors, at unit length.

        Raises:
            ConfigError: a sentence with its template is longer than the text half reads.
        """
        longest = self.model.config.text_config.max_position_embeddings
        found = []
        for sentence in sentences:
            texts = [template.replace("{}", sentence) for template in templates]
            for text, ids in zip(texts, self.tokenizer(texts)["input_ids"], strict=True):
                if len(ids) > longest:
                    raise ConfigError(
                        f"sentence too long: expected at most {longest} tokens, got {len(ids)} in {text[:80]!r}. "
                        "Shorten it."
                    )
            parts = []
            for start in range(0, len(texts), BATCH_SIZE):
                inputs = self.tokenizer(texts[start : start + BATCH_SIZE], padding=True, return_tensors="pt")
                inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
                pooled = self.model.text_model(**inputs).pooler_output
                parts.append(functional.normalize(self.model.text_projection(pooled), dim=-1))
            found.append(functional.normalize(torch.cat(parts).mean(0), dim=-1))
        return torch.stack(found)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' reports of missing tensors."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _config(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    raise ConfigError(
        f"no CLIP: expected a folder with config.json or a hub id (owner/name), got {folder}. Check the name."
    )


def _then(first: nn.Linear, second: nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Two linear maps as one."""
    return second.weight @ first.weight, second.weight @ first.bias + second.bias


def _behind(norm: nn.LayerNorm, weight: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear map behind a norm, with the norm's gain and shift in it."""
    return weight * norm.weight, weight @ norm.bias + bias


def _named(name: str, linear: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": linear[0], f"{name}.bias": linear[1]}


def _refused(name: object, what: str, next_step: str = "Name a CLIP in transformers' format.") -> ConfigError:
    return ConfigError(f"CLIP {name} refused: {what}. {next_step}")
