"""Training of the competitors on a tiny base: same records, resumable, ready for `make_system`; and the ablations."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ablations
import comparison
import competitors
import meta_training
import pocket_trainings as trainings
import pytest
import validation_numbers as validation
from ablations import VARIANTS, fewer_clean, print_ablations, run_ablations
from competitors import train_systems
from meta_training import MetaTask
from PIL import Image
from pocket_trainings import Budget, Trainings
from rich.console import Console
from script import spread
from scripts import invoke

from safety_modules import pocket
from safety_modules.adapter import read_adapter
from safety_modules.backbones import find_backbone
from safety_modules.config import SafetyConfig
from safety_modules.defences.guard.guard import Guard, GuardSettings
from safety_modules.defences.meta_token import MetaToken
from safety_modules.demo import state_digest
from safety_modules.errors import ConfigError
from safety_modules.evaluation.systems import make_system
from safety_modules.pocket import mix, splits
from safety_modules.records.record import Record
from safety_modules.training import train as train_module
from safety_modules.training.border import BorderRecipe
from safety_modules.training.transfer import TransferRecipe

RECIPES = {
    1: "stage: 1\nsteps: 3\nbatch_size: 8\nlearning_rate: 1.0e-3\nclean_share: 0.5\npatch_dropout: 0.5\n",
    2: "stage: 2\nsteps: 2\nbatch_size: 6\nlearning_rate: 1.0e-3\nclean_share: 0.4\ntext_only_share: 0.2\n"
    "answer_tokens: 3\nsave_every: 1\n",
}
SMALL = Budget(records=48, calibration=16)
TRAINED = ["lora", "paper", "meta-token", "tga", "davsp"]
ONLY = ["always", "clean-quarter"]


@pytest.fixture(autouse=True, scope="module")
def tiny_pocket(tiny_base: Any, processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny base stands in for pocket; recipes take a second, and 16 pictures are enough for a promise."""
    folder = tmp_path_factory.mktemp("recipes")
    for number, text in RECIPES.items():
        (folder / f"stage{number}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pocket, "load", lambda: (copy.deepcopy(tiny_base), processor))
        patch.setattr(trainings, "recipe_dir", lambda: folder)
        patch.setattr(competitors, "BorderRecipe", lambda: BorderRecipe(steps=2, pictures=6))
        patch.setattr(competitors, "TransferRecipe", lambda: TransferRecipe(steps=2, batch_size=4))
        patch.setattr(mix, "MAX_FALSE_ALARM", 0.3)
        patch.setattr(train_module, "write_plots", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has code of its own, seed 0; `gated` is trained as `paper` is, and with the ablations."""
    out = tmp_path_factory.mktemp("trained")
    train_systems(out, [0], TRAINED, SMALL, progress=False)
    return out


def forbid(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("trained again")


def test_every_trained_system_can_be_made_and_answers(
    trained: Path, tiny_base: Any, model: Any, processor: Any, make_image: Callable[[int], Any]
) -> None:
    from safety_modules.evaluation.cases import Case

    case = Case(id="0", part="p", wanted="answer", prompt="what?", images=(make_image(1),))
    for name in TRAINED:
        folder = trained / "seed0" / name
        system = make_system(f"{name}={folder}", model, processor)
        (reply,) = system.answer([case], 3)
        assert (reply.risk is None) == (name in ("lora", "tga", "davsp"))
        assert system.extra_mb > 0
    assert state_digest(model) == state_digest(tiny_base)


def test_thresholds_are_set_on_the_same_records(trained: Path) -> None:
    adapter = read_adapter(trained / "seed0" / "paper")
    assert adapter.config.metadata["calibration"]["images"] == SMALL.calibration
    assert adapter.guard.thresholds
    record = json.loads((trained / "seed0" / "meta-token" / "adapter_config.json").read_text())
    assert record["metadata"]["calibration"]["images"] == SMALL.calibration
    (part,) = record["parts"]
    assert set(part["settings"]["thresholds"]) == set(SafetyConfig().taxonomy.types)


def test_what_is_finished_is_not_trained_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (trainings, "train_safety"),
        (competitors, "train_safety"),
        (competitors, "train_transfer"),
        (competitors, "train_border"),
        (meta_training, "train_stage"),
    ):
        monkeypatch.setattr(module, name, forbid)
    said: list[str] = []
    train_systems(trained, [0], TRAINED, SMALL, progress=False, say=said.append)
    assert len(said) == len(TRAINED) and all("finished before" in line for line in said)


def test_a_folder_with_another_budget_is_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match="expected the budget"):
        train_systems(trained, [0], budget=Budget(records=50, calibration=16), progress=False)


def test_an_unknown_system_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'meta-token'"):
        train_systems(tmp_path / "new", [0], only=["metatoken"], progress=False)
    assert not (tmp_path / "new").exists()


def test_an_interrupted_training_goes_on_to_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, whole, steps = "meta-token", MetaTask.forward, []

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(MetaTask, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_systems(tmp_path, [0], [name], SMALL, progress=False)
    train_systems(tmp_path, [0], [name], SMALL, progress=False)
    assert len(steps) == round(2 * competitors.TIMES) + 1  # each step once, and the interrupted one again
    first, second = (sorted((root / "seed0" / name).rglob("*.safetensors")) for root in (trained, tmp_path))
    assert len(first) == len(second) == 2  # modules and LoRA
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_meta_training_moves_tokens_head_and_lora(trained: Path, processor: Any) -> None:
    model, _ = pocket.load()
    before = dict(MetaToken(find_backbone(model, processor)).named_parameters())
    system = make_system(f"meta-token={trained / 'seed0' / 'meta-token'}", model, processor)
    after = dict(system.attachment.defences[0].named_parameters())
    for part in ("modules.tokens.weight", "modules.head.0.weight", "modules.head.3.weight"):
        assert not before[part].equal(after[part])
    assert any(tensor.abs().sum() > 0 for name, tensor in after.items() if name.endswith("lora_B.weight"))


def test_a_seed_changes_the_first_weights_and_the_same_one_gives_the_same(tiny_base: Any, processor: Any) -> None:
    backbone = find_backbone(tiny_base, processor)
    config = SafetyConfig(width=16, attention_heads=2)
    one, same, other = (Guard(backbone, GuardSettings(design=config), seed).modules.state_dict() for seed in (1, 1, 2))
    assert all(tensor.equal(same[name]) for name, tensor in one.items())
    assert not one["head.concepts"].equal(other["head.concepts"])


def test_recipes_follow_seed_and_effort(tmp_path: Path) -> None:
    run = Trainings(tmp_path, Budget(records=10, effort=2, calibration=10), progress=False)
    recipe = run.recipe(2, 7, competitors.TIMES, hint_rate=0.0)
    assert (recipe.seed, recipe.steps, recipe.hint_rate) == (7, round(2 * 2 * competitors.TIMES), 0.0)


@pytest.fixture(scope="module")
def ablated(trained: Path) -> tuple[dict[str, Any], set[str]]:
    """A few variants, beside the trained systems; and the splits that were touched."""
    touched, real = set(), splits.make

    def spy(kind: str, count: int, **where: Any) -> Any:
        touched.add((where["split"], kind, where["seed"]))
        return real(kind, count, **where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splits, "make", spy)
        patch.setattr(validation, "MAX_NEW_TOKENS", 4)
        return run_ablations(trained, [0], ONLY, SMALL, samples=2, progress=False), touched


@pytest.mark.slow
def test_ablations_share_weights_and_train_the_rest(ablated: Any, trained: Path) -> None:
    results, _ = ablated
    assert list(results["variants"]) == ["none", *ONLY]
    assert not (trained / "seed0" / "always").exists()
    assert (trained / "seed0" / "clean-quarter" / "adapter_config.json").is_file()
    for variant in results["variants"].values():
        numbers = variant["seeds"]["0"]
        for style in splits.STYLES:
            assert 0 <= numbers[style]["asr"] <= 1
    base, always = (results["variants"][name]["seeds"]["0"]["seen"] for name in ("none", "always"))
    assert base["auroc"] is None and always["prompt_tokens"] > base["prompt_tokens"]


@pytest.mark.slow
def test_ablations_never_touch_the_test_split_nor_what_thresholds_were_set_on(ablated: Any) -> None:
    _, touched = ablated
    assert {split for split, _, _ in touched} <= {"train", "validation"}
    assert ("validation", "benign", validation.SEED) in touched and validation.SEED != 0


@pytest.mark.slow
def test_measured_variants_are_not_measured_again(ablated: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablations, "measure", forbid)
    again = run_ablations(trained, [0], ONLY, SMALL, 2, progress=False)
    assert again == ablated[0]


@pytest.mark.slow
def test_the_table_shows_mean_and_range(ablated: Any) -> None:
    stream = io.StringIO()
    print_ablations(ablated[0], Console(file=stream, width=200))
    assert "clean-quarter: a quarter" in stream.getvalue()


def test_a_cell_is_the_mean_and_the_range() -> None:
    assert spread([0.01, 0.03, None]) == "2.0 (1.0 to 3.0)"
    assert spread([None]) == "" and spread([0.5]) == "50.0"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_design_and_recipes_that_can_be_trained(
    name: str, trained: Path, tiny_base: Any, processor: Any
) -> None:
    run, variant = Trainings(trained, SMALL, progress=False), VARIANTS[name]
    config = SafetyConfig.model_validate({**dict(SafetyConfig()), **variant.design})
    assert (config == SafetyConfig()) == (not variant.design)
    changed = [ablations._recipe(run, variant, one, 0) != run.recipe(one, 0) for one in (1, 2)]
    assert changed == [variant.clean != 1, variant.clean != 1 or bool(variant.recipe)]


def test_fewer_clean_samples_are_fewer_in_the_data_and_in_the_draws(trained: Path) -> None:
    picture, about = Image.new("RGB", (4, 4)), {"question": "what?", "answer": None}
    clean = [Record(image=picture, type="clean", level="safe", **about) for _ in range(8)]
    others = [
        Record(image=picture, type="illegal", level="high", **about),
        Record(image=None, type="clean", level="safe", **about),
    ]
    assert fewer_clean([*clean, *others], 0.25) == [*clean[:2], *others]
    share = ablations._recipe(Trainings(trained, SMALL, progress=False), VARIANTS["clean-quarter"], 1, 0).clean_share
    assert share == pytest.approx(0.2)  # of 1/4 clean for each 1 risky


def test_the_commands_hand_their_options_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(comparison, "train_systems", lambda *args, **options: seen.update(train=args))
    monkeypatch.setattr(ablations, "run_ablations", lambda *args, **options: seen.update(ablate=args) or {})
    monkeypatch.setattr(ablations, "print_ablations", lambda results: None)
    size = ["--records", "50", "--effort", "0.5"]
    train = ["comparison.py", "train", "--seed", "1", "--seed", "2", "--only", "lora"]
    for arguments in (train, ["ablations.py", "--seeds", "2"]):
        done = invoke(*arguments, "--out", tmp_path, *size)
        assert done.exit_code == 0, done.output
    budget = Budget(records=50, effort=0.5)
    assert seen["train"] == (tmp_path, [1, 2], ["lora"], budget)
    assert seen["ablate"] == (tmp_path, range(2), None, budget, validation.SAMPLES)
