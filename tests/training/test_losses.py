"""The losses, against numbers worked out by hand."""

import math

import pytest
import torch

from safety_modules.defences.guard import IGNORED
from safety_modules.training.losses import head_loss, language_model_loss

TYPES = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
LEVELS = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))


def test_head_loss_is_the_weighted_sum_of_both_cross_entropies() -> None:
    loss = head_loss(TYPES, LEVELS, torch.tensor([0, 2]), torch.tensor([1, 0]), 2.0, 0.5)
    type_loss = -(math.log(0.5) + math.log(0.8)) / 2
    level_loss = -(math.log(0.75) + math.log(0.5)) / 2
    assert loss.type.item() == pytest.approx(type_loss)
    assert loss.level.item() == pytest.approx(level_loss)
    assert loss.total.item() == pytest.approx(2 * type_loss + 0.5 * level_loss)


def test_unlabelled_samples_do_not_count() -> None:
    loss = head_loss(TYPES, LEVELS, torch.tensor([0, IGNORED]), torch.tensor([IGNORED, IGNORED]))
    assert loss.type.item() == pytest.approx(-math.log(0.5))
    assert loss.level.item() == 0


def test_loss_of_unlabelled_batch_can_be_differentiated() -> None:
    logits = TYPES.clone().requires_grad_()
    head_loss(logits, LEVELS, torch.tensor([IGNORED] * 2), torch.tensor([0, 0])).type.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_language_model_loss_predicts_the_next_labelled_token_only() -> None:
    logits = torch.zeros(1, 4, 3)
    logits[0, 1] = torch.log(torch.tensor([0.2, 0.5, 0.3]))  # predicts position 2
    logits[0, 2] = torch.log(torch.tensor([0.1, 0.1, 0.8]))  # predicts position 3
    labels = torch.tensor([[IGNORED, IGNORED, 1, 2]])
    assert language_model_loss(logits, labels).item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_language_model_loss_equals_that_of_transformers() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, 11, generator=generator)
    labels = torch.randint(11, (3, 6), generator=generator)
    labels[:, :3] = IGNORED
    torch.testing.assert_close(language_model_loss(logits, labels), ForCausalLMLoss(logits, labels, 11))


def test_losses_are_computed_in_float32() -> None:
    loss = head_loss(TYPES.bfloat16(), LEVELS.bfloat16(), torch.tensor([0, 2]), torch.tensor([1, 0]))
    assert loss.total.dtype == torch.float32
