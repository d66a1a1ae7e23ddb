"""From words to an adapter: the head is CLIP's own arithmetic, on the tower that runs anyway."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from words_cases import WORDS, saved_clip, tiny_clip, tiny_tokenizer

from safety_modules.adapter import read_adapter
from safety_modules.attach import attach_safety
from safety_modules.audit.tower_guard import TowerGuard
from safety_modules.backbones import find_backbone
from safety_modules.config import ViewsSettings
from safety_modules.defences.guard.judge import look
from safety_modules.errors import AdapterError, AttachError, ConfigError, GuardError
from safety_modules.policy.policy import Policy
from safety_modules.records.record import Record
from safety_modules.training import Recipe, calibrate, train_safety
from safety_modules.training.extend import extended_config
from safety_modules.training.features import cache_features
from safety_modules.training.words import LOCAL, Words, attach_words, pseudo_labelled, words_design


@pytest.fixture(scope="session")
def clip(tiny_base):
    return tiny_clip(tiny_base)


@pytest.fixture(scope="session")
def clip_folder(clip, tmp_path_factory):
    return saved_clip(clip, tmp_path_factory.mktemp("clip") / "clip")


@pytest.fixture(scope="session")
def policy():
    """The default one's rules for the types of `WORDS`."""
    whole = Policy.default()
    return whole.model_copy(update={"rules": {name: whole.rules[name] for name in WORDS.types}})


@pytest.fixture
def worded(model, processor, clip_folder, policy):
    return attach_words(model, processor, WORDS, clip_folder, policy=policy)


def text_features(clip, texts):
    """The text half by hand."""
    inputs = tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    pooled = clip.text_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    return torch.nn.functional.normalize(clip.text_projection(pooled), dim=-1)


@torch.no_grad()
def test_the_head_says_what_clip_says(worded, clip, make_image):
    pixels = worded.backbone.pixel_values([make_image(1), make_image(2)])
    vision = worded.backbone.encode_with_class(pixels).vision
    output = clip.vision_model(pixel_values=pixels)
    image = torch.nn.functional.normalize(clip.visual_projection(output.pooler_output), dim=-1)
    texts = [one.text for one in worded.config.words.sentences]
    means = torch.stack([text_features(clip, [text, f"a picture of {text}"]).mean(0) for text in texts])
    expected = image @ torch.nn.functional.normalize(means, dim=-1).T
    whole, patches = worded.modules.head.cosines(vision)
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-5)
    assert patches.shape == (2, worded.backbone.sizes.num_patches, len(texts))
    assert whole.std() > 0.02  # the tiny CLIP tells sentences apart


@torch.no_grad()
def test_a_patch_goes_through_the_value_path_of_the_last_layer(worded, clip, make_image):
    pixels = worded.backbone.pixel_values([make_image(3)])
    vision = worded.backbone.encode_with_class(pixels).vision
    inner = getattr(clip.vision_model, "vision_model", clip.vision_model)
    layer = inner.encoder.layers[-1]
    value = layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(vision[:, 1:])))
    expected = torch.nn.functional.normalize(clip.visual_projection(inner.post_layernorm(value)), dim=-1)
    head = worded.modules.head
    found = torch.nn.functional.normalize(head.project(head.normed(head.value(head.normed(vision[:, 1:])))), dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_types_levels_and_maps_come_from_the_same_sentences(worded, make_image):
    (verdict,) = worded.classify([make_image(1)])
    assert set(verdict.probabilities) == {"illegal", "privacy", "clean"}
    assert sum(verdict.probabilities.values()) == pytest.approx(1)
    assert verdict.attention.shape == (2, *worded.backbone.sizes.grid)
    assert verdict.attention.sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    with torch.no_grad():
        vision = worded.backbone.encode_with_class(worded.backbone.pixel_values([make_image(1)])).vision
        head = worded.modules.head
        whole, patches = head.cosines(vision)
        weights = (head.scale * ((1 - LOCAL) * whole + LOCAL * patches.amax(1))).softmax(-1)[0]
    sentences = worded.config.words.sentences
    for name in verdict.probabilities:
        own = sum(float(w) for w, one in zip(weights, sentences, strict=True) if one.type == name)
        assert verdict.probabilities[name] == pytest.approx(own, abs=1e-5)


def test_the_tower_runs_once_and_the_answer_of_a_clean_row_is_the_bases(worded, ask, tiny_base, model):
    safety = worded
    safety.thresholds = dict.fromkeys(safety.config.taxonomy.types, 30.0)  # nothing fires
    inputs = ask(("what is this?", [1]), ("and this?", [2]))
    runs = []
    hook = safety.backbone.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    hook.remove()
    assert len(runs) == 1
    assert torch.equal(out, copy.deepcopy(tiny_base).generate(**inputs, max_new_tokens=5, do_sample=False))
    last = safety.backbone.vision_tower
    assert not any("keep" in str(hook) for part in last.modules() for hook in part._forward_hooks.values())


def test_until_calibrated_a_policy_that_acts_is_refused_and_one_that_logs_is_not(
    worded, ask, model, make_image, policy
):
    inputs = ask(("what is this?", [1]))
    with pytest.raises(GuardError, match=r"not enforced: expected calibrated.*illegal, privacy.*--benign"):
        model.generate(**inputs, max_new_tokens=3)
    for name in policy.rules:
        policy = policy.with_rule(name, action="log")
    worded.policy = policy
    model.generate(**inputs, max_new_tokens=3)
    assert worded.classify([make_image(1)])
    calibrate(
        worded,
        [
            Record(image=make_image(seed), question="", answer=None, type="clean", level="safe")
            for seed in range(100, 160)
        ],
        max_false_alarm=0.05,
        progress=False,
    )
    worded.policy = policy.with_rule("illegal", action="refuse").with_rule("privacy", action="hint")
    model.generate(**inputs, max_new_tokens=3)


def test_an_adapter_of_words_comes_back_as_it_was(worded, model, processor, tmp_path, make_image, policy):
    worded.thresholds = dict.fromkeys(worded.config.taxonomy.types, 1.5)
    before = worded.classify([make_image(seed) for seed in range(3)])
    folder = worded.save_pretrained(tmp_path / "adapter", dtype="float32")
    worded.detach()
    read = read_adapter(folder)
    assert read.guard.design.words.sentences[0].text == "a bomb"
    own = {name: value for name, value in load_file(folder / "safety.safetensors").items() if value.any()}
    base = [value for value in model.state_dict().values() if value.any()]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a in own.values() for b in base)
    again = attach_safety(model, processor, adapter=folder, policy=policy)
    after = again.classify([make_image(seed) for seed in range(3)])
    assert [verdict.probabilities for verdict in after] == [verdict.probabilities for verdict in before]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d["words"]["sentences"][0].update(type="nonsense"), "no such label"),
        (lambda d: d["words"]["sentences"][0].update(level="safe"), "no such label"),
        (lambda d: d["words"]["sentences"][0].update(text="a\x1b[2Jbomb"), "not words"),
        (lambda d: d["words"].update(templates=["no place"]), "no place"),
        (lambda d: d["words"].update(width=10**9), "width"),
        (lambda d: d["words"].update(tower="zz"), "tower"),
        (lambda d: d["words"].pop("tower"), "tower"),
        (lambda d: d["words"].update(sentences=d["words"]["sentences"][:-1] * 900), "sentences"),
        (lambda d: d.pop("words"), "go together"),
        (lambda d: d.update(query="concept"), "go together"),
        (lambda d: d.update(num_lm_tokens=4), "have no language-model tokens"),
        (lambda d: d["words"].update(code="import os"), "code"),
    ],
)
def test_a_strangers_words_are_refused(worded, tmp_path, change, problem):
    folder = worded.save_pretrained(tmp_path / "adapter")
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    change(config["parts"][0]["settings"]["design"])
    file.write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=problem):
        read_adapter(folder)


def test_words_of_another_last_layer_are_refused_though_the_fingerprint_is_the_same(worded, model, processor, tmp_path):
    folder = worded.save_pretrained(tmp_path / "adapter")
    worded.detach()
    before = find_backbone(model, processor).fingerprint()
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    with torch.no_grad():
        tower.encoder.layers[-1].mlp.fc1.weight.mul_(1.5)
    assert find_backbone(model, processor).fingerprint() == before
    with pytest.raises(AttachError, match="words of another tower"):
        attach_safety(model, processor, adapter=folder)


def test_a_clip_of_another_tower_is_refused_by_the_tensor(model, processor, clip, tmp_path):
    other = copy.deepcopy(clip)
    inner = getattr(other.vision_model, "vision_model", other.vision_model)
    with torch.no_grad():
        inner.encoder.layers[0].mlp.fc1.weight.add_(0.01)
    folder = saved_clip(other, tmp_path / "other")
    with pytest.raises(ConfigError, match=r"encoder.layers.0.mlp.fc1.weight.*another vision tower.*Name the CLIP"):
        attach_words(model, processor, WORDS, folder)
    assert attach_safety(model, processor)  # nothing was left on the model


def test_a_base_in_half_precision_has_the_same_tower(model, processor, clip_folder, policy, make_image):
    safety = attach_words(model.to(torch.bfloat16), processor, WORDS, clip_folder, policy=policy)
    assert safety.classify([make_image(1)])


def test_a_clip_may_leave_the_tower_to_the_base_by_its_digest(
    model, processor, clip, worded, tmp_path, make_image, policy
):
    folder = saved_clip(clip, tmp_path / "half")
    expected = worded.classify([make_image(1)])[0].probabilities
    worded.detach()
    # The tower's own last norm is the base's then.
    inner = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    own = getattr(clip.vision_model, "vision_model", clip.vision_model)
    inner.post_layernorm.load_state_dict(own.post_layernorm.state_dict())
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if not n.startswith("vision_model.")}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["vision_tower_digest"] = find_backbone(model, processor).tower_digest()
    (folder / "config.json").write_text(json.dumps(config))
    safety = attach_words(model, processor, WORDS, folder, policy=policy)
    assert safety.classify([make_image(1)])[0].probabilities == pytest.approx(expected, abs=1e-5)
    safety.detach()
    config["vision_tower_digest"] = "0" * 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="to have the digest '0000"):
        attach_words(model, processor, WORDS, folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f: (f / "config.json").write_text("[]"), "no CLIP"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llava"}'), "expected model_type 'clip'"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "Pickled weights are not opened"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 64), "expected a CLIPModel"),
        (lambda f: (f / "tokenizer.json").unlink(), "refused"),
        (lambda f: drop(f, "text_projection.weight"), "every tensor.*text_projection"),
        (lambda f: drop(f, "vision_model.encoder.layers.1.mlp.fc1.bias"), "every tensor.*fc1.bias"),
    ],
)
def test_a_folder_that_is_no_whole_clip_is_refused(model, processor, clip, tmp_path, change, problem):
    folder = saved_clip(clip, tmp_path / "clip")
    change(folder)
    with pytest.raises(ConfigError, match=problem):
        attach_words(model, processor, WORDS, folder)


def drop(folder: Path, name: str) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    found = [one for one in tensors if one.endswith(name)]
    assert found
    save_file({n: t for n, t in tensors.items() if n not in found}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1, 2", "expected YAML"),
        ("types: {illegal: {high: [a bomb]}}", "harmless"),
        ("types: {illegal: {high: [a bomb]}}\nharmless: [a bomb]", "stands twice"),
        ("types: {illegal: {high: []}}\nharmless: [a dog]", "illegal"),
        ("types: {illegal: {high: [a bomb]}}\nharmless: [a dog]\ncolour: red", "unknown key 'colour'"),
        ("types: {illegal: {high: [a bomb]}}\ntypes: {}\nharmless: [a dog]", "appears twice"),
        ("types: {Illegal: {high: [a bomb]}}\nharmless: [a dog]", "types"),
        ("types: {illegal: {safe: [a bomb]}}\nharmless: [a dog]", "unknown level 'safe'"),
        ("types: {illegal: {high: [a bomb]}}\nharmless: [a dog]\ntemplates: [a photo]", "place"),
        ("!!python/object/apply:os.system [ls]", "expected YAML"),
        ("types: {illegal: {high: [a bomb]}}\nharmless: [" + "a " * 20 + "dog]", "sentence too long"),
    ],
)
def test_a_file_of_words_that_says_something_else_is_refused(model, processor, clip_folder, tmp_path, text, problem):
    file = tmp_path / "types.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        attach_words(model, processor, file, clip_folder)


def test_own_words_stand_beside_those_that_come_along_or_in_their_place(tmp_path):
    file = tmp_path / "types.yaml"
    file.write_text(
        "extends: true\ntypes: {illegal: {high: [a lock pick]}, gambling: {low: [dice]}}\nharmless: [a lamp]"
    )
    words, first = Words.from_yaml(file), Words.default()
    assert words.types["illegal"]["high"] == (*first.types["illegal"]["high"], "a lock pick")
    assert words.types["privacy"] == first.types["privacy"]
    assert list(words.types)[-1] == "gambling"
    assert words.harmless == (*first.harmless, "a lamp")
    assert words.templates == first.templates
    file.write_text("types: {illegal: {high: [a lock pick]}}\nharmless: [a lamp]")
    assert Words.from_yaml(file).types == {"illegal": {"high": ("a lock pick",)}}


def test_a_teacher_labels_what_it_is_sure_of(worded, make_image):
    with torch.no_grad():
        worded.modules.head.local.fill_(0.5)  # noise pictures then have both labels
    records = [
        Record(image=make_image(seed), question="what is this?", answer=None, type="clean", level="safe")
        for seed in range(40)
    ]
    sure = sorted(max(v.probabilities.values()) for v in worded.classify([r.image for r in records]))[20]
    found, confidences = pseudo_labelled(worded, records, sure, progress=False)
    assert 0 < len(found) < 40
    assert min(confidences) >= sure - 1e-4
    by_picture = {record.image_digest(): record for record in found}
    for record, verdict in zip(records, worded.classify([r.image for r in records]), strict=True):
        if (label := by_picture.get(record.image_digest())) is not None:
            assert label.type == max(verdict.probabilities, key=verdict.probabilities.get)
            assert label.is_risky == (label.level != "safe")


def test_a_base_that_uses_other_features_has_no_class_token_for_words(
    model, processor, clip_folder, policy, make_image
):
    model.config.vision_feature_layer = -1
    safety = attach_words(model, processor, WORDS, clip_folder, policy=policy)
    with pytest.raises(ConfigError, match="no class token: expected one run of the whole tower"):
        safety.classify([make_image(1)])


def test_a_design_needs_no_picture_and_no_language_model(model, processor, clip_folder):
    config, tensors = words_design(find_backbone(model, processor), WORDS, clip_folder)
    assert config.lora is None
    assert set(tensors) == {
        "value.weight",
        "value.bias",
        "project.weight",
        "project.bias",
        "directions",
        "scale",
        "local",
    }


RECIPE = Recipe(stage=1, steps=3, batch_size=4, learning_rate=1e-2, log_every=1, save_every=0)


def test_the_head_of_words_can_be_trained_on(worded, make_image):
    records = [
        Record(image=make_image(seed), question="what?", answer=None, type=kind, level=level)
        for seed in range(8)
        for kind, level in [("illegal", "high") if seed % 2 else ("clean", "safe")]
    ]
    before = {name: value.clone() for name, value in worded.modules.head.state_dict().items()}
    train_safety(worded, records, RECIPE, progress=False)
    after = worded.modules.head.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in ("directions", "project.weight", "value.weight"))
    verdicts = worded.classify([record.image for record in records])
    risks = [verdict.risk for verdict in verdicts]
    assert sum(risks[1::2]) > sum(risks[::2])


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        (RECIPE.changed(patch_dropout=0.5), "no patches to leave out: expected the mlp projector, got words"),
        (RECIPE.changed(stage=2), "stage 2 refused: expected a design with LoRA"),
    ],
)
def test_a_recipe_that_words_have_no_use_for_is_refused(worded, make_image, recipe, problem):
    record = Record(image=make_image(1), question="what?", answer=None, type="illegal", level="high")
    with pytest.raises(ConfigError, match=problem):
        train_safety(worded, [record], recipe, progress=False)


def test_a_type_is_added_to_words_by_a_sentence_not_by_a_branch(worded):
    with pytest.raises(ConfigError, match="type not added: expected a trained head, got one of words"):
        extended_config(worded.config, "gambling")


def test_cached_features_of_words_and_of_patches_lie_apart(worded, make_image, tmp_path):
    records = [Record(image=make_image(1), question="", answer=None, type="clean", level="safe")]
    patches = worded.backbone.sizes.num_patches
    for modules, rows in ((worded.modules, patches + 1), (None, patches), (worded.modules, patches + 1)):
        store = cache_features(worded.backbone, records, tmp_path, modules=modules, progress=False)
        assert store.batch([records[0].image_digest()]).shape[1] == rows


def test_a_tower_alone_judges_by_words_as_the_whole_model_does(
    worded, saved_base, tmp_path, policy, make_image, tiny_base
):
    worded.thresholds = dict.fromkeys(worded.config.taxonomy.types, 0.0)
    expected = worded.classify([make_image(seed) for seed in range(3)])
    folder = worded.save_pretrained(tmp_path / "adapter", dtype="float32")
    guard = TowerGuard(saved_base, str(folder), policy, "cpu", torch.float32)
    pixels = worded.backbone.pixel_values([make_image(seed) for seed in range(3)])
    with torch.no_grad():
        vision = look(guard.backbone, guard.modules, pixels).vision
        types = guard.modules(vision).type_logits.softmax(-1)
    for row, verdict in zip(types, expected, strict=True):
        assert row.tolist() == pytest.approx(list(verdict.probabilities.values()), abs=1e-5)


def test_words_judge_by_random_views_too(worded, make_image):
    images = [make_image(seed) for seed in range(3)]
    one_look = [verdict.probabilities for verdict in worded.classify(images)]
    worded.modules.judge_by(ViewsSettings(count=2))
    with worded.inference():
        pixels = worded.modules.views.of(worded.backbone.pixel_values(images), *worded.backbone.pixel_range())
        with worded.modules.one_look():
            logits = worded.modules(look(worded.backbone, worded.modules, pixels).vision).type_logits
    expected = logits.unflatten(0, (3, 2)).mean(1).softmax(-1)
    for row, verdict, before in zip(expected, worded.classify(images), one_look, strict=True):
        assert list(verdict.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-4)
        assert verdict.probabilities != before
