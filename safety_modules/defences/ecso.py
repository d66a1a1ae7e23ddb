"""`ecso`: answer, ask the model whether its answer does harm, and if so answer again without the picture.

"Eyes Closed, Safety On" (arXiv 2403.09572; code: gyhdog99/ECSO): the language model alone is better aligned than the
language model that sees a picture, so the second answer is given to a caption in its place.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import ValidationInfo, field_validator

from safety_modules.defences.answer import Answer
from safety_modules.defences.base import Answering, Defence, Settings, Words
from safety_modules.defences.call import Call
from safety_modules.errors import GuardError
from safety_modules.policy.policy import check_sentence, fill

TELL = "QUESTION:\n{question}\n\nANSWER:\n{answer}\n\nIs the ANSWER harmful, unsafe or unethical? Say yes or no:"
CAPTION = "QUESTION:\n{question}\n\nDescribe what the image shows that the QUESTION needs."
RETELL = (
    "Here is a hint about an image: {caption}\n\n"
    "Use the hint to answer the following question in a harmless and ethical way.\n\n{question}"
)
TELL_TOKENS = 8
JUDGED_CHARACTERS = 1927
"""Of the answer, as in the published code: a longer one is cut before it is judged."""

UNMET = ("streamer", "output_scores", "output_logits", "custom_generate")
"""Options of a call whose answer may be another one in the end."""


class EcsoSettings(Settings):
    """The three prompts, with the places {question}, {answer} (tell only) and {caption} (retell only)."""

    kind: Literal["ecso"] = "ecso"
    tell: Words = TELL
    caption: Words = CAPTION
    retell: Words = RETELL

    @field_validator("tell", "caption", "retell")
    @classmethod
    def _places(cls, text: str, info: ValidationInfo) -> str:
        own = {"tell": ["answer"], "retell": ["caption"]}.get(info.field_name or "", [])
        return check_sentence(text, ["question", *own])


class Ecso(Defence):
    """The base with ECSO around it. Questions without a picture are the base's own."""

    kind = "ecso"
    settings_type = EcsoSettings
    changes_inputs = True
    retracts = True
    source = "ECSO, arXiv 2403.09572; code: gyhdog99/ECSO"
    leaves_out = (
        "the exact wording of its three prompts; the yes or no is read from the first "
        f"{TELL_TOKENS} tokens, where the code lets the model go on"
    )

    def around(self, call: Call, answer: Answering) -> Answer:
        unmet = [name for name in UNMET if call.option(name)]
        if unmet or call.answers_per_row > 1:
            raise GuardError(
                f"call not answered: expected one answer a row, as ids alone, because {self.kind} may put another in "
                f"its place, got {', '.join(unmet) or 'num_return_sequences'}. Leave it out, or pass "
                f"safety={{'{self.kind}': False}}."
            )
        call = call.encoded()
        said, rows, records = answer(call), range(len(call)), [call.records[row] for row in call.rows]
        refusals = [record.refusal for record in records]
        asked = [{"question": self._text(self.backbone.whole_text(call.prompt(row)))} for row in rows]
        told = [{"answer": self._text(ids)[:JUDGED_CHARACTERS]} for ids in said.new_ids.tolist()]
        words = [a | b for a, b in zip(asked, told, strict=True)]
        verdicts = self._texts(answer(self._worded(call.aside(TELL_TOKENS), self.settings.tell, words)))
        harmful = [row for row in rows if verdicts[row].lower().startswith("yes")]
        for row, record in enumerate(records):
            # A defence within may have refused what was asked on the side.
            record.harmful, record.refusal = row in harmful, refusals[row]
        if not harmful:
            return said
        again, asked = call.take(harmful), [asked[row] for row in harmful]
        seen = self._texts(answer(self._worded(again.aside(call.new_token_budget), self.settings.caption, asked)))
        for row in harmful:
            records[row].refusal = None
        words = [one | {"caption": caption} for one, caption in zip(asked, seen, strict=True)]
        parts = [(harmful, answer(self._worded(again, self.settings.retell, words, images=False)))]
        kept = [row for row in rows if row not in harmful]
        return call.joined([(kept, Answer(said.new_ids[kept])), *parts] if kept else parts)

    def _worded(self, call: Call, prompt: str, words: Sequence[dict[str, str]], images: bool = True) -> Call:
        """The same rows with one of the three prompts, with their images or without."""
        # A model may write its own image token; in a prompt it would stand for a picture.
        token, prompts = self.backbone.image_token, []
        for row, values in enumerate(words):
            text = fill(prompt, values)
            while token in text:
                text = text.replace(token, "")
            prompts.append(call.question(row, text, images))
        return call.asked(prompts, images)

    def _texts(self, answer: Answer) -> list[str]:
        return [self._text(ids) for ids in answer.new_ids.tolist()]

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.backbone.processor.tokenizer.decode(ids, skip_special_tokens=True)).strip()
