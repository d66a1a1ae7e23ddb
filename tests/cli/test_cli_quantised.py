"""Commands on bases in 4 and 8 bit, on the CPU (`make test-quant`)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from guard_cases import judged
from test_cli_base import folder, loaded, use_everywhere

from safety_modules import attach_safety
from safety_modules.cli.options import attach, load_base
from safety_modules.records import read_records
from safety_modules.training import calibrate
from safety_modules.training.extend import RECIPE, extend_safety

pytest.importorskip("bitsandbytes")
__all__ = ["folder", "loaded"]  # fixtures

WAYS = ("nf4", "int8")
FAST = RECIPE.model_copy(update={"steps": 3, "batch_size": 8, "warmup_steps": 0, "feature_noise": 0.0})


@pytest.mark.parametrize("way", WAYS)
def test_every_command_works_on_a_quantised_base(folder: Path, loaded: list[Any], way: str) -> None:
    use_everywhere("--quantize", way, "--dtype", "float32")
    assert loaded == [{"nf4": torch.uint8, "int8": torch.int8}[way]] * 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantised_base_unpacks_to_the_dtype_it_is_told(folder: Path, way: str, dtype: str) -> None:
    base, _ = load_base(Path("base"), way, dtype)
    linear = base.model.language_model.layers[0].mlp.up_proj
    assert base.dtype == getattr(torch, dtype)
    if way == "nf4":
        assert linear.compute_dtype == getattr(torch, dtype)


@pytest.mark.parametrize("way", WAYS)
def test_the_verdict_and_its_calibration_are_those_of_the_unquantised_base(folder: Path, way: str) -> None:
    benign, labelled = read_records("benign.csv"), read_records("labelled.csv")
    plain, packed = attach(Path("base"), Path("old")), attach(Path("base"), Path("old"), way, "float32")
    assert plain.backbone.fingerprint() | {"language_model": None} == packed.backbone.fingerprint()
    types = [judged(safety, benign).types for safety in (plain, packed)]
    assert np.allclose(*types, atol=1e-6)
    limits = [
        calibrate(safety, benign, 0.2, labelled=labelled, progress=False).thresholds for safety in (plain, packed)
    ]
    assert limits[0] == pytest.approx(limits[1], abs=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_type_added_on_a_quantised_base_is_that_of_the_unquantised_one(folder: Path, way: str) -> None:
    found = []
    for quantize in (None, way):
        safety = attach_safety(*load_base(Path("base"), quantize, "float32"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            known = extend_taxonomy(safety)
            extend_safety(safety, read_records("new.csv", taxonomy=known), "allergens", recipe=FAST, progress=False)
        found.append(safety.modules.branch_of("allergens").state_dict())
    assert all(torch.allclose(value, found[1][name], atol=1e-5) for name, value in found[0].items())


def extend_taxonomy(safety: Any) -> Any:
    return safety.config.with_added(("allergens",)).taxonomy
