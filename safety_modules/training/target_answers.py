"""What the language model should say in stage II."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from safety_modules.attach.attachment import SafetyAttachment
from safety_modules.defences.guard import Sample, build_inputs
from safety_modules.io.progress import track
from safety_modules.policy.policy import Policy
from safety_modules.records.record import Record
from safety_modules.taxonomy import Taxonomy
from safety_modules.training import distributed
from safety_modules.training.corpus import Corpus
from safety_modules.training.recipe import Recipe

BATCH_SIZE = 64


def target_text(record: Record, policy: Policy, taxonomy: Taxonomy, caution: str) -> str | None:
    """The wanted answer of a record; None = the base's own answer.

    - no image: the record's answer, else the base's own, because guarding never steers such rows;
    - clean: the record's answer, else the base's own, so that the adapter learns to change nothing;
    - risky, mildest level: the caution, then the record's answer if there is one; an answer that already begins
      like the caution stays as it is;
    - risky, any other level: the record's answer, else the policy's refusal with its reason.

    Args:
        record: any.
        policy: its reasons, titles and refusals.
        taxonomy: its first risky level is the mildest, where it has several.
        caution: with {reason}, {type} and {answer}.

    Raises:
        PolicyError: the policy has no rule for the type.
    """
    if record.image is None or not record.is_risky:
        return record.answer
    if record.level != taxonomy.risky_levels[0] or len(taxonomy.risky_levels) == 1:
        return record.answer or policy.refusal_text(record.type, record.level)
    rule = policy.rules[record.type]
    opening = caution.partition("{")[0].strip()
    if record.answer and opening and record.answer.startswith(opening):
        return record.answer
    text = caution.replace("{type}", rule.title or record.type).replace("{reason}", rule.reason)
    return text.replace("{answer}", record.answer or "").strip()


def target_ids(
    attachment: SafetyAttachment,
    corpus: Corpus,
    indices: Iterable[int],
    recipe: Recipe,
    progress: bool = True,
    kept: Path | None = None,
) -> dict[int, list[int]]:
    """The wanted answers of the records of these indices as ids; what no text is known for is asked from the base.

    `kept`: file for the base's answers, see `base_answers`.
    """
    policy, taxonomy = attachment.policy, attachment.config.taxonomy
    texts = {
        index: target_text(corpus.records[index], policy, taxonomy, recipe.caution) for index in sorted(set(indices))
    }
    answers = {index: attachment.backbone.answer_ids(text) for index, text in texts.items() if text is not None}
    unknown = [index for index in texts if index not in answers]
    return answers | base_answers(attachment, corpus, unknown, recipe.answer_tokens, progress, kept)


def base_answers(
    attachment: SafetyAttachment,
    corpus: Corpus,
    indices: list[int],
    max_new_tokens: int,
    progress: bool = True,
    kept: Path | None = None,
) -> dict[int, list[int]]:
    """The unguarded base's own greedy answers as ids, with the end-of-sequence id where it came within the limit.

    `kept`: JSON lines of batches of answers: those it holds are not asked for again, new ones are added by one of the
    processes, as they come. None = not kept.
    """
    backbone, end = attachment.backbone, attachment.backbone.answer_ids("")[-1]
    # Like lengths together: text-only questions are much shorter, and padding costs time.
    indices = sorted(indices, key=lambda i: (corpus.digests[i] is None, corpus.records[i].letters))
    answers = _kept_answers(kept)
    batches = [indices[start : start + BATCH_SIZE] for start in range(0, len(indices), BATCH_SIZE)]
    todo = [batch for batch in batches if not answers.keys() >= set(batch)]
    with track("the base's own answers", sum(map(len, todo)), enabled=progress and bool(todo)) as advance:
        for part in todo:
            with attachment.inference(), attachment.lora_mounted(False):
                vision = corpus.vision(part)
                projected = iter([] if vision is None else backbone.project(vision))
                samples = []
                for index in part:
                    images = int(corpus.digests[index] is not None)
                    record = corpus.records[index]
                    prompt = backbone.prompt_ids(record.question, images, record.history)
                    features = [next(projected) for _ in range(images)]
                    samples.append(Sample(backbone.expanded(prompt, features), features))
                inputs = build_inputs(backbone, attachment.modules.lm_tokens(), samples)
                stub = backbone.pixel_stub(len(inputs.features))
                pictures = {} if stub is None else {"pixel_values": stub}  # generate would try to encode None
                with backbone.planned(inputs.features, inputs.images_per_row):
                    output = backbone.base_generate(
                        input_ids=inputs.input_ids,
                        attention_mask=inputs.attention_mask,
                        **pictures,
                        do_sample=False,
                        num_beams=1,
                        max_new_tokens=max_new_tokens,
                        suppress_tokens=[backbone.image_token_id],  # it would ask for an image later
                    )
            for index, ids in zip(part, output[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
                answers[index] = ids[: ids.index(end) + 1] if end in ids else ids
            if kept is not None and distributed.rank() == 0:
                with kept.open("a", encoding="utf-8") as file:
                    file.write("\n" + json.dumps({index: answers[index] for index in part}))  # after a torn line too
            advance(len(part))
    distributed.wait()
    return answers


def _kept_answers(kept: Path | None) -> dict[int, list[int]]:
    """Those of an interrupted run, whose last line may be torn."""
    found: dict[int, list[int]] = {}
    for line in kept.read_text(encoding="utf-8").split("\n") if kept is not None and kept.exists() else ():
        with suppress(ValueError):
            found |= {int(index): ids for index, ids in json.loads(line).items()}
    distributed.wait()
    return found
