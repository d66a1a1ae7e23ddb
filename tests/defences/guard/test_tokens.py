import pytest
import torch

from safety_modules.defences.guard.modules import SafetyTokens


def test_tokens_are_one_parameter_of_the_given_shape_and_spread():
    torch.manual_seed(0)
    tokens = SafetyTokens(64, 256, std=0.5)
    assert [name for name, _ in tokens.named_parameters()] == ["weight"]
    assert tokens().shape == (64, 256) and tokens().requires_grad
    assert float(tokens().detach().std()) == pytest.approx(0.5, rel=0.05)


def test_an_empty_set_is_allowed():
    assert SafetyTokens(0, 256)().shape == (0, 256)
