"""Checks of the processor: does it write LLaVA-1.5's prompts, and do questions and hints have their places in them?"""

import re
from itertools import takewhile

from safety_modules.backbones.chat import IMAGE
from safety_modules.doctor.check import Failed, NotApplicable
from safety_modules.doctor.subject import QUESTIONS, Subject
from safety_modules.errors import PromptError

HINT = "Note: this image carries a high risk of harm."


def image_token(subject: Subject) -> str:
    """The tokenizer knows the image token, by the id that the model has for it."""
    token, expected = getattr(subject.processor, "image_token", IMAGE), int(subject.model.config.image_token_id)
    got = subject.tokenizer.convert_tokens_to_ids(token)
    if got != expected or got == subject.tokenizer.unk_token_id:
        raise Failed(
            f"{token!r} with id {expected}",
            f"id {got}",
            "Load model and processor from the same checkpoint (AutoProcessor.from_pretrained).",
        )
    return f"{token} = {got}"


def left_padding(subject: Subject) -> str:
    """Prompts of several lengths are padded on the left, where no answer follows."""
    side = subject.tokenizer.padding_side
    if side != "left":
        raise Failed(
            "padding_side 'left'",
            repr(side),
            "Set processor.tokenizer.padding_side = 'left': padded on the right, the base answers shorter prompts "
            "from padding.",
        )
    return side


def chat_template(subject: Subject) -> str:
    """The chat template writes `USER: <image> ... ASSISTANT:`, or the marks of a later LLaVA, where hints and questions
    are looked for.
    """
    if getattr(subject.processor, "chat_template", None) is None:
        raise NotApplicable("the processor has none; prompts are written by hand, as `USER: <image>\\n... ASSISTANT:`")
    text, question = subject.prompts[0], re.escape(QUESTIONS[0])
    marks = subject.backbone.chat.marks
    user, assistant, end = (re.escape(mark.strip()) for mark in marks)
    ends = rf"\s*{end}\s*" if end else r"\s+"
    if not re.search(rf"{user}\s+(?:{re.escape(IMAGE)}\s*)+{question}{ends}{assistant}\s*$", text):
        raise Failed(
            f"`{marks.user} {IMAGE} ... {marks.assistant.strip()}`",
            repr(text[-90:]),
            "Use the chat template of the base's own checkpoint. Under another one every word counts as the user's, "
            "and risky rows are refused for want of a place for the hint.",
        )
    return repr(text[-90:])


def image_tokens(subject: Subject) -> str:
    """A picture takes as many image tokens in a prompt as the model has features of it."""
    ids = subject.inputs["input_ids"]
    vision = subject.model.config.vision_config
    expected = [(vision.image_size // vision.patch_size) ** 2] * len(ids)
    if hasattr(subject.model.config, "image_grid_pinpoints"):
        expected = subject.backbone.patch_counts(subject.backbone.images_given(subject.inputs))
    got = (ids == int(subject.model.config.image_token_id)).sum(1).tolist()
    if got != expected:
        raise Failed(f"{expected[0]} a picture", str(got), "Load the processor from the base's own checkpoint.")
    return f"{expected[0]} a picture"


def prompt_ids(subject: Subject) -> str:
    """A question judged alone has the very ids that the processor gives it in a call."""
    backbone, question = subject.backbone, QUESTIONS[0]
    text = backbone.prompt(question)
    got = list(subject.processor(images=subject.pictures[0], text=text)["input_ids"][0])
    counts = backbone.patch_counts(backbone.pixel_values(subject.pictures[:1]))
    expected = backbone.prompt_ids(question, 1, lengths=counts)
    if got != expected:
        raise Failed(f"{expected[-12:]}", f"{got[-12:]}", "Use the processor of the base's own checkpoint.")
    return f"{len(got)} tokens"


def question(subject: Subject) -> str:
    """What the head judges of a prompt is the question, no more and no less."""
    backbone, ids = subject.backbone, _prompt(subject)
    readings = [subject.tokenizer.decode(one.ids).strip() for one in backbone.turns(ids)]
    if readings != [QUESTIONS[0]]:
        raise Failed(
            repr(QUESTIONS[0]),
            " | ".join(map(repr, readings))[:200],
            "More is judged than was asked: write prompts as the base was trained on them, `USER: ... ASSISTANT:`.",
        )
    return repr(readings[0])


def hint(subject: Subject) -> str:
    """The safe hint has a place after the question, and before `ASSISTANT:`."""
    backbone, ids = subject.backbone, _prompt(subject)
    try:
        found = backbone.insert_hint(ids, HINT)
    except PromptError as error:
        raise Failed("a place after the question", str(error), "Use the base's own chat template.") from error
    text, tail = subject.tokenizer.decode(found), f"{QUESTIONS[0]} {HINT}"
    mark = backbone.chat.marks.assistant.strip()
    kept = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, found, strict=False))]
    pictures = kept.count(backbone.image_token_id) == ids.count(backbone.image_token_id)
    if tail not in text or not text.rstrip().endswith(mark) or not pictures:
        raise Failed(f"... {tail} {mark}", repr(text[-160:]), "Report it with the name of the tokenizer.")
    return repr(text[text.rindex(QUESTIONS[0]) :])


def data(subject: Subject) -> str:
    """Pictures of the data can be read, and their questions and hints fit the base's context."""
    if not subject.records:
        raise NotApplicable("no --data")
    backbone = subject.backbone
    longest = 0
    for record in subject.records:
        images = [] if record.image is None else [record.load_image()]
        pixels = backbone.pixel_values(images) if images else None
        if pixels is not None and not bool(pixels.isfinite().all()):
            raise Failed("finite pixels", str(record.image), "Take the picture out: `safety-modules data check`.")
        counts = [] if pixels is None else backbone.patch_counts(pixels)
        asked = backbone.insert_hint(backbone.prompt_ids(record.question, len(images), record.history, counts), HINT)
        longest = max(longest, len(asked) + len(backbone.answer_ids(record.answer or "")))
    most = int(getattr(subject.model.config.text_config, "max_position_embeddings", longest))
    if longest > most:
        raise Failed(f"at most {most} tokens", str(longest), "Shorten the longest questions or answers.")
    return f"{len(subject.records)} records, the longest with its hint {longest} of {most} tokens"


def _prompt(subject: Subject) -> list[int]:
    """Ids of the first question as it is asked."""
    return list(subject.processor(images=subject.pictures[0], text=subject.prompts[0])["input_ids"][0])
