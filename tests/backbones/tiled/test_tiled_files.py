"""Bases with tiles from a folder: loaded whole, their tower alone, an audit with it, a server's requests."""

import json
from importlib.util import find_spec

import pytest
import torch
import transformers
from data_samples import llava, write_json

from safety_modules import attach_safety
from safety_modules.audit import audit
from safety_modules.backbones import find_backbone
from safety_modules.backbones.bases import load_whole
from safety_modules.backbones.tower import TowerBackbone, open_tower
from safety_modules.errors import AttachError, ConfigError

pytestmark = pytest.mark.matrix


@pytest.fixture
def loadable(family, processor, saved_base, monkeypatch):
    """The tiny base as a folder. Transformers loads LLaVA-OneVision's processor only beside torchvision."""
    if family == "onevision":
        own = transformers.AutoProcessor.from_pretrained

        def loaded(folder, *args, **kwargs):
            return processor if str(folder) == str(saved_base) else own(folder, *args, **kwargs)

        monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", loaded)
    return saved_base


def test_a_folder_is_loaded_whole(loadable, tiny_base, processor):
    model, found = load_whole(loadable)
    assert type(model) is type(tiny_base)
    fingerprints = [find_backbone(*pair).fingerprint() for pair in ((model, found), (tiny_base, processor))]
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0]["architecture"] == type(tiny_base).__name__


def test_without_torchvision_onevision_says_what_is_missing(family, saved_base):
    if find_spec("torchvision") is not None:
        pytest.skip("torchvision is here")
    if family == "next":
        assert load_whole(saved_base)
    else:
        with pytest.raises(ConfigError, match=r"(?i)torchvision"):
            load_whole(saved_base)


def test_the_tower_alone_gives_the_same_features(loadable, tiny_base, processor, make_image):
    tower, whole = open_tower(loadable), find_backbone(tiny_base, processor)
    pictures = [make_image(seed) for seed in range(9)]
    with torch.no_grad():
        found, expected = (one.encode_images(one.pixel_values(pictures)).vision for one in (tower, whole))
    assert torch.equal(found, expected) and tower.sizes == whole.sizes
    assert {**whole.fingerprint(), "language_model": None} == tower.fingerprint()
    with pytest.raises(AttachError, match="Use open_tower"):
        TowerBackbone(loadable)


def test_an_audits_verdicts_are_those_of_classify(
    loadable, saved_adapter, model, processor, make_image, tmp_path, family
):
    pq = pytest.importorskip("pyarrow.parquet")
    items = []
    for number in range(8):
        make_image(number).save(tmp_path / f"{number}.png")
        items.append(llava(f"{number}.png", question=f"what is {number}?"))
    items[3] = items[1]
    (tmp_path / "5.png").write_bytes((tmp_path / "4.png").read_bytes()[:60])
    data = write_json(tmp_path / "data.json", items)
    # A process that decodes has its own libraries loaded; both ways are the same.
    for workers in (0, 1) if family == "next" else (0,):
        out = tmp_path / f"out{workers}"
        audit(data, out, loadable, saved_adapter, batch_size=3, workers=workers, progress=False)
        rows = {row["row"]: row for row in pq.read_table(out / "verdicts.parquet").to_pylist()}
        safety = attach_safety(model, processor, adapter=saved_adapter)
        names = list(safety.config.taxonomy.labels)
        for number in (0, 1, 2, 4, 6, 7):
            verdict = safety.classify([tmp_path / f"{number}.png"], f"what is {number}?")[0]
            assert rows[number]["flagged"] == verdict.flagged, rows[number]
            assert all(abs(rows[number][f"p_{name}"] - verdict.probabilities[name]) < 1e-4 for name in names)
        assert json.loads((out / "summary.json").read_text(encoding="utf-8"))["fit"] == "stretch"
        assert rows[5]["flagged"] is None and rows[3]["duplicate_of"] == 1
        safety.detach()
