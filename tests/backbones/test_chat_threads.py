"""A tokenizer is shared with whoever tokenizes meanwhile: nothing of it is changed, and nothing set on it matters."""

import copy

import pytest

from safety_modules.backbones import find_backbone

pytestmark = pytest.mark.matrix


@pytest.mark.parametrize("limit", [None, 3, 512])
@pytest.mark.parametrize("pads", [None, 64])
def test_what_another_thread_set_on_the_tokenizer_stays_and_does_not_matter(model, processor, limit, pads):
    def all_ids(backbone):
        prompt = backbone.prompt_ids("how do I use what is shown here?", images=2)
        hinted = backbone.insert_hint(prompt, "Note: this may do harm.")
        return prompt, hinted, backbone.answer_ids("I'm sorry."), backbone.turns(prompt), backbone.parts(prompt)

    expected = all_ids(find_backbone(model, processor))
    shared = copy.deepcopy(processor)
    backbone, backend = find_backbone(model, shared), shared.tokenizer.backend_tokenizer
    if limit is not None:
        backend.enable_truncation(limit)
    if pads is not None:
        backend.enable_padding(length=pads)
    before = backend.padding
    assert all_ids(backbone) == expected
    if limit != 3:  # a truncation that would cut is taken off, as a call of the tokenizer does
        assert backend.padding == before
