"""Callbacks see the sequences as the caller knows them, whatever the prompts of the call that answers."""

import pytest
import torch
from guard_cases import Recorder
from transformers import LogitsProcessorList, StoppingCriteriaList

from safety_modules.backbones.generation import seen_through, with_prompts

PROMPTS = torch.tensor([[1, 2], [3, 4]])
IDS = torch.tensor([[9, 9, 9, 5], [9, 9, 9, 6], [9, 9, 9, 7], [9, 9, 9, 8]])  # two answers to each prompt
AS_THE_CALLER = [[1, 2, 5], [1, 2, 6], [3, 4, 7], [3, 4, 8]]


@pytest.fixture
def view():
    return with_prompts(PROMPTS, width=3, per_row=2)


def test_sequences_of_all_rows_and_of_one_get_the_callers_prompts(view):
    assert view(IDS, None).tolist() == AS_THE_CALLER
    assert [view(IDS[row : row + 1], row)[0].tolist() for row in range(4)] == AS_THE_CALLER


def test_every_callback_looks_through_the_view(view):
    seen, streamer = [], Recorder()

    def note(ids, scores, **kwargs):
        seen.append(ids.tolist())

    wrapped = seen_through(
        view,
        {
            "stopping_criteria": [note],
            "logits_processor": [note],
            "prefix_allowed_tokens_fn": lambda row, ids: seen.append((row, ids.tolist())),
            "streamer": streamer,
            "max_new_tokens": 3,
        },
    )
    assert wrapped.keys() == {"stopping_criteria", "logits_processor", "prefix_allowed_tokens_fn", "streamer"}
    assert isinstance(wrapped["stopping_criteria"], StoppingCriteriaList)
    assert isinstance(wrapped["logits_processor"], LogitsProcessorList)
    wrapped["stopping_criteria"][0](IDS, None)
    wrapped["logits_processor"][0](IDS, None)
    wrapped["prefix_allowed_tokens_fn"](2, IDS[2])
    assert seen == [AS_THE_CALLER, AS_THE_CALLER, (2, [3, 4, 7])]
    wrapped["streamer"].put(IDS[:, :3])
    wrapped["streamer"].put(IDS[:, 3])
    wrapped["streamer"].end()
    assert [value.tolist() for value in streamer.values] == [[[1, 2], [1, 2], [3, 4], [3, 4]], [5, 6, 7, 8]]
    assert streamer.ended == 1


def test_what_is_not_given_is_not_made_up(view):
    assert seen_through(view, {"stopping_criteria": [], "streamer": None}) == {}
