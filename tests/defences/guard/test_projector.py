import torch

from safety_modules.config import BaseSizes, SafetyConfig
from safety_modules.defences.guard.modules import MLPProjector, SafetyModules
from safety_modules.defences.guard.published import CAbstractor, RegNetBlock


def test_projectors_keep_the_patches_and_change_the_width():
    features = torch.randn(2, 12, 16)
    assert MLPProjector(16, 8)(features).shape == (2, 12, 8)
    assert CAbstractor(16, 8, (3, 4))(features).shape == (2, 12, 8)


def test_mlp_projector_with_hand_set_weights_gives_known_numbers():
    projector = MLPProjector(2, 2)
    with torch.no_grad():
        for layer in (projector.down, projector.out):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
        projector.act = torch.nn.ReLU()
    # LayerNorm of (1, 3) is (-1, 1) up to its epsilon; ReLU leaves (0, 1).
    assert torch.allclose(projector(torch.tensor([[[1.0, 3.0]]])), torch.tensor([[[0.0, 1.0]]]), atol=1e-4)


def test_mlp_projector_looks_at_each_patch_alone():
    projector, features = MLPProjector(16, 8), torch.randn(1, 12, 16)
    changed = features.clone()
    changed[0, 5, 0] += 1  # one channel: a shift of all of them is nothing to the LayerNorm
    different = (projector(features) != projector(changed)).any(-1)[0]
    assert different.nonzero().flatten().tolist() == [5]


def test_c_abstractor_keeps_the_row_major_order_of_the_patches():
    torch.manual_seed(0)
    projector, features = CAbstractor(16, 8, (8, 8)).eval(), torch.randn(1, 64, 16)
    changed = features.clone()
    changed[0, 0] += 1
    change = (projector(features) - projector(changed)).abs().sum(-1)[0].unflatten(0, (8, 8))
    assert change.argmax() == 0 and change[0, 0] > 10 * change[7, 7]


def test_a_regnet_block_whose_last_norm_is_zero_is_a_silu():
    block, x = RegNetBlock(8), torch.randn(1, 8, 3, 3)
    torch.nn.init.zeros_(block.norm3.weight)
    assert torch.allclose(block(x), torch.nn.functional.silu(x))


def test_a_design_says_which_projector_it_has():
    sizes = BaseSizes(vision_width=16, text_width=32, num_patches=12, grid=(3, 4), vocab_size=9, num_layers=1)
    assert isinstance(SafetyModules(SafetyConfig(), sizes).projector, MLPProjector)
    paper = SafetyModules(SafetyConfig.preset("paper"), sizes).projector
    assert isinstance(paper, CAbstractor) and paper.readout[-1].out_features == 32
