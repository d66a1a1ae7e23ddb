"""The fixtures of all tests, for tiny bases that cut pictures into tiles: each test runs on both families."""

import sys
from pathlib import Path

import pytest
import tiled_bases
from guard_cases import save_adapter, save_base

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "defences"))

FAMILIES = ("next", "onevision")


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def processor(family, processor):
    """LLaVA-1.6's with LLaVA-1.5's tokenizer and chat template, as the Vicunas have it; LLaVA-OneVision's."""
    if family == "next":
        return tiled_bases.next_processor(processor.tokenizer, processor.chat_template)
    return tiled_bases.onevision_processor()


@pytest.fixture(scope="session")
def tiny_base(family, processor, device):
    make = tiled_bases.next_model if family == "next" else tiled_bases.onevision_model
    return make(processor.tokenizer).to(device)


@pytest.fixture(scope="session")
def saved_base(family, tiny_base, processor, tmp_path_factory):  # its own: that of all tests may be there already
    return save_base(tmp_path_factory.mktemp(f"saved_{family}") / "base", tiny_base, processor)


@pytest.fixture(scope="session")
def saved_adapter(tiny_base, processor, saved_base, make_image):
    return save_adapter(saved_base.parent / "adapter", tiny_base, processor, [make_image(seed) for seed in range(31)])


@pytest.fixture(scope="session")
def make_image():
    return tiled_bases.picture


@pytest.fixture(scope="session")
def ask(family, processor, make_image, device):
    """Model inputs for a batch: `ask((question, [image seeds]), ...)`."""

    def build(*rows):
        texts, images = [], []
        for question, seeds in rows:
            content = [{"type": "image"}] * len(seeds) + [{"type": "text", "text": question}]
            texts.append(
                processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            )
            images += [[make_image(seed) for seed in seeds]] if seeds else []
        if family == "next":
            images = [image for row in images for image in row]
        return dict(processor(images=images or None, text=texts, return_tensors="pt", padding=True).to(device))

    return build
