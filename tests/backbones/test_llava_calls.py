"""The two forms of a call: the llava package's and the guard's, there and back."""

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from safety_modules.backbones.llava_calls import CallForm
from safety_modules.errors import GuardError, PromptError

IMAGE, PAD, P = -200, 0, 3
FORM = CallForm(IMAGE, PAD, lambda pixels: [P] * len(pixels))


class Model:
    """Stands for a base's `generate`: notes what it was asked and answers every row with 7, 8."""

    def __init__(self):
        self.asked = {}

    def __call__(self, inputs=None, **kwargs):
        self.asked = {"inputs": inputs, **kwargs}
        new = torch.full((len(inputs), 2), 7) + torch.tensor([0, 1])
        for callback in kwargs.get("logits_processor") or []:
            callback(new, None)
        for callback in kwargs.get("stopping_criteria") or []:
            callback(new, None)
        if kwargs.get("prefix_allowed_tokens_fn"):
            kwargs["prefix_allowed_tokens_fn"](len(inputs) - 1, new[-1])
        return new


def through(model, inputs, images=None, lengths=None, **kwargs):
    """The package's call -> guard's form -> package's form; also what the guard saw."""
    seen = {}

    def generate(**call):
        seen.update(call)
        return FORM.ask(model, lengths, call)

    return FORM.answer(generate, inputs, images, **kwargs), seen


def test_an_image_token_becomes_one_per_feature_and_back():
    model = Model()
    inputs, images = torch.tensor([[1, IMAGE, 5], [1, 4, 5]]), torch.rand(2, 3, 4, 4)
    answer, seen = through(model, inputs, images)
    assert seen["input_ids"].tolist() == [[1, IMAGE, IMAGE, IMAGE, 5], [PAD, PAD, 1, 4, 5]]
    assert seen["attention_mask"].tolist() == [[1] * 5, [0, 0, 1, 1, 1]]
    assert torch.equal(seen["pixel_values"], images[:1])  # the row without an image brought a stand-in
    assert model.asked["inputs"].tolist() == inputs.tolist()
    assert model.asked["images"].shape == images.shape and torch.equal(model.asked["images"][0], images[0])
    assert answer.tolist() == [[7, 8], [7, 8]]  # new tokens only


def test_padding_on_either_side_and_adjacent_images_survive():
    model = Model()
    inputs = torch.tensor([[1, IMAGE, IMAGE, 5], [1, IMAGE, 6, PAD]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    _, seen = through(model, inputs, torch.rand(3, 3, 4, 4), attention_mask=mask)
    assert seen["input_ids"].shape == (2, 8)
    asked = zip(model.asked["inputs"], model.asked["attention_mask"], strict=True)
    rows = [row[keep.bool()].tolist() for row, keep in asked]
    assert rows == [[1, IMAGE, IMAGE, 5], [1, IMAGE, 6]]


def test_text_without_images_is_passed_on_with_its_own_padding():
    model = Model()
    inputs, mask = torch.tensor([[1, 4, 5], [1, 6, PAD]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    through(model, inputs, attention_mask=mask)
    assert torch.equal(model.asked["inputs"], inputs) and torch.equal(model.asked["attention_mask"], mask)
    assert model.asked["images"] is None


def test_longer_images_of_a_steered_row_are_still_one_token_each():
    model = Model()
    ids = torch.tensor([[1] + [IMAGE] * (P + 2) + [IMAGE] * P + [5]])
    FORM.ask(model, [[P + 2, P]], {"input_ids": ids, "pixel_values": torch.rand(2, 3, 4, 4)})
    assert model.asked["inputs"].tolist() == [[1, IMAGE, IMAGE, 5]]


def test_callbacks_and_streamers_see_what_the_package_shows_them():
    seen, streamed = [], []

    class Recorder(BaseStreamer):
        def put(self, value):
            streamed.append(value.tolist())

        def end(self):
            streamed.append("end")

    def note(ids, _scores, **_kwargs):
        seen.append(ids.tolist())

    def generate(**call):
        call["streamer"].put(call["input_ids"])  # the guard streams prompts, the package none
        call["streamer"].put(torch.tensor([7]))
        call["streamer"].end()
        return FORM.ask(Model(), None, {**call, "streamer": None})

    FORM.answer(
        generate,
        torch.tensor([[1, IMAGE, 5]]),
        torch.rand(1, 3, 4, 4),
        stopping_criteria=[note],
        logits_processor=[note],
        prefix_allowed_tokens_fn=lambda row, ids: note(ids, None),
        streamer=Recorder(),
    )
    assert seen == [[[7, 8]], [[7, 8]], [7, 8]]
    assert streamed == [[[]], [7], "end"]


@pytest.mark.parametrize(
    ("inputs", "images", "error", "words"),
    [
        (None, None, GuardError, "expected inputs"),
        ([[1, IMAGE]], torch.zeros(2, 3, 4, 4), PromptError, "expected 1 images"),
        ([[1, IMAGE], [1, 2]], torch.zeros(1, 3, 4, 4), PromptError, "one for each row without any"),
        ([[1, IMAGE]], torch.zeros(1, 5, 3, 4, 4), GuardError, "tiles"),
        ([[1, IMAGE, IMAGE]], [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)], GuardError, "several sizes"),
    ],
)
def test_calls_whose_images_the_guard_cannot_judge_are_refused(inputs, images, error, words):
    with pytest.raises(error, match=words):
        through(Model(), None if inputs is None else torch.tensor(inputs), images)
