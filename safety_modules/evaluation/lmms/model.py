"""`safety_llava`: a LLaVA with a defence, for lmms-eval. Imported by lmms-eval; everything it asks is guarded.

It answers as `safety-modules evaluate` does: greedily, in the base's own chat format, pictures before the words.
"""

from collections.abc import Sequence

import torch
from accelerate import PartialState
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image

from safety_modules.backbones.bases import load_onto
from safety_modules.errors import ConfigError
from safety_modules.evaluation.cases import Case
from safety_modules.evaluation.lmms.arguments import choose_system, new_tokens
from safety_modules.evaluation.systems import make_system
from safety_modules.io.progress import track
from safety_modules.paths import adapter_dir, checkpoint_dir

DTYPES = ("auto", "bfloat16", "float16", "float32")


class SafetyLlava(lmms):
    """A LLaVA of transformers with our adapter, none, or another defence.

    Args:
        pretrained: folder or hub id of the base; None = llava-pocket.
        adapter: folder or hub id of the adapter; None = llava-pocket's, on llava-pocket.
        safety: `on`; or `off`, the base alone.
        mode: `gated` or `always`, whatever the adapter's own; None = gated.
        allow: risk types that are switched off, joined by `+`.
        defence: another system of `safety-modules evaluate`, as `NAME` or `NAME=FOLDER`, in the place of ours.
        batch_size: requests at a time.
        dtype: of the base: auto, bfloat16, float16 or float32.
        quantize: load the base in nf4 or int8.
        max_new_tokens: limit of an answer where the task sets none.
        device: of this process; None = its own, by accelerate.
        max_batch_size: given by lmms-eval; not used, as batches have a fixed size.

    Raises:
        ConfigError: an unknown argument value, or two that contradict each other.
        AdapterError: the adapter is refused.

    Does not cover: log-likelihoods (a refusal has none), sampling, several rounds, videos, pictures between words.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str | None = None,
        adapter: str | None = None,
        safety: str | bool = "on",
        mode: str | None = None,
        allow: str = "",
        defence: str | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        quantize: str | None = None,
        max_new_tokens: int = 1024,
        device: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        spec = choose_system(safety, mode, defence, allow)
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"no batches: expected a batch_size of 1 or more, got {batch_size!r}. Name a number.")
        state = PartialState()
        where = device if device is not None and state.num_processes == 1 else state.device
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}. Pick one of them.")
        model, processor = load_onto(pretrained or checkpoint_dir(), torch.device(where), dtype, quantize)
        if adapter is None and pretrained is None:
            adapter = str(adapter_dir())
        self.system = make_system(spec, model, processor, adapter)
        if allow:
            attachment = self.system.attachment
            assert attachment is not None, "choose_system lets only ours through"
            attachment.policy = attachment.policy.allow(*allow.split("+"))
        self.batch_size, self.device = int(batch_size), model.device
        self.max_new_tokens = max_new_tokens

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """Greedy answers, in order. Stop strings are left alone, as in lmms-eval's `llava_hf`."""
        limits: dict[int, list[int]] = {}
        for place, request in enumerate(requests):
            limits.setdefault(new_tokens(request.args[1], self.max_new_tokens), []).append(place)
        answers: dict[int, str] = {}
        with track("answering", len(requests), self.rank == 0) as advance:
            for limit, places in limits.items():
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    replies = self.system.answer([self._case(requests[place]) for place in batch], limit)
                    answers |= {place: reply.text for place, reply in zip(batch, replies, strict=True)}
                    advance(len(batch))
        return [answers[place] for place in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """Not supported: a guarded model may refuse without the language model, and a refusal has no likelihood."""
        raise ConfigError(
            "no log-likelihoods: expected tasks that generate, got one that scores given answers. Choose its "
            "generating form; or, for the base alone, lmms-eval's llava_hf."
        )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        """Not supported."""
        raise ConfigError("no conversations: expected tasks of one round, got one of several. Leave it out.")

    def _case(self, request: Instance) -> Case:
        words, _, doc_to_visual, doc_id, task, split = request.args
        pictures = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            got = ", ".join(sorted({type(picture).__name__ for picture in pictures}))
            raise ConfigError(f"task {task} not answered: expected pictures, got {got}. Leave it out.")
        if "<image>" in words:
            raise ConfigError(
                f"task {task} not answered: expected words with the pictures before them, got <image> between the "
                "words. Leave it out."
            )
        return Case(id=f"{task}/{split}/{doc_id}", part=task, wanted="answer", prompt=words, images=tuple(pictures))
