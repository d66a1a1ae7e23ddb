"""The whole tour on the embedded model: attack, attach, train, calibrate, evaluate, toggle, save, detach, reload."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from safety_modules import pocket
from safety_modules.adapter.folder import read_adapter
from safety_modules.attach.attach import SafetyAttachment, attach_safety
from safety_modules.errors import SafetyModulesError
from safety_modules.evaluation.asking import ask_records
from safety_modules.evaluation.examples import Example, answered, make_examples, reaction_title
from safety_modules.evaluation.matchers import reaction
from safety_modules.evaluation.outcomes import REACTIONS
from safety_modules.evaluation.pocket_report import print_results, write_report
from safety_modules.evaluation.pocket_suite import attacks_measured, evaluate_pocket
from safety_modules.evaluation.results import megabytes_in
from safety_modules.evaluation.sheet import write_sheet
from safety_modules.io.files import write_json
from safety_modules.paths import adapter_dir, recipe_dir
from safety_modules.pocket import mix, splits
from safety_modules.policy.scores import probability
from safety_modules.policy.verdict import Verdict
from safety_modules.records.record import Record
from safety_modules.training import calibrate, train_safety
from safety_modules.training.recipe import Recipe


class Scale(NamedTuple):
    """How much of everything the tour does."""

    training: int  # records with a picture to train on; 0 = take the shipped adapter
    effort: float  # share of the recipes' steps
    calibration: int  # benign records the threshold is set on
    attacks: int  # on the base, of each form
    samples: int  # per set of the evaluation
    transcripts: int  # more answers in the report, of each kind


SHEET, NUMBERS, REPORT, ADAPTER = OURS = ("sheet.png", "results.json", "report.html", "adapter")
"""What the tour writes into its folder."""

# Less than the shipped adapter was trained with, so that the tour stays below eight minutes.
FULL = Scale(12_000, effort=0.35, calibration=mix.CALIBRATION, attacks=100, samples=100, transcripts=8)
PRETRAINED = Scale(training=0, effort=0, calibration=0, attacks=50, samples=50, transcripts=6)


def run_demo(
    out: str | Path = "safety-demo",
    pretrained: bool = False,
    scale: Scale | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """The tour.

    Args:
        out: folder for the picture, the report, the numbers and the adapter.
        pretrained: use the shipped adapter instead of training one.
        scale: how much of everything; default: eight minutes, or one with the shipped adapter, on two cores.
        console: where to print.

    Returns:
        What `evaluate_pocket` returned.

    Raises:
        SafetyModulesError: something promised did not hold: bit-identity after detach, or equal verdicts after
            reloading.
    """
    return _Tour(Path(out), pretrained, scale or (PRETRAINED if pretrained else FULL), console or Console()).run()


class _Tour:
    """State of one tour: the live model, and how long each step took."""

    def __init__(self, out: Path, pretrained: bool, scale: Scale, console: Console) -> None:
        self.out, self.pretrained, self.scale, self.console = out, pretrained, scale, console
        self.steps: list[tuple[str, float]] = []

    def run(self) -> dict[str, Any]:
        """All steps in order."""
        begin = time.perf_counter()
        with self._step("load llava-pocket"):
            self.model, self.processor = pocket.load()
            self.digest = state_digest(self.model)
            self._say(f"{_millions(self.model.parameters())} parameters, {type(self.model).__name__}")
            self._say(f"state dict digest {self.digest[:16]}")
        with self._step("attack the base through its images"):
            self._attack_base()
        with self._step("attach safety modules" + (" with the shipped adapter" if self.pretrained else "")):
            self.safety = attach_safety(self.model, self.processor, adapter=adapter_dir() if self.pretrained else None)
            self._say(f"{_millions(self.safety.parameters())} parameters beside the base, none inside it")
        if not self.pretrained:
            with self._step("train stage I (head) and stage II (LoRA, tokens)"):
                self._train()
            with self._step("calibrate on benign validation pictures"):
                self._calibrate()
        with self._step("evaluate base and guarded on held-out pictures"):
            results = evaluate_pocket(self.safety, samples=self.scale.samples)
            print_results(results, self.console)
        with self._step("switch it off: everywhere, for a call, for a row, for one type"):
            self._toggle()
        with self._step("write the picture and the report"):
            examples, transcripts = make_examples(self.safety), self._transcripts()
            sheet = write_sheet(examples, self.out / SHEET, "llava-pocket: base against guarded")
        with self._step("save the adapter, detach, compare bit by bit"):
            adapter, verdicts = self._save_and_detach()
        with self._step("reload the adapter into a fresh model"):
            self._reload(adapter, verdicts)
        total = time.perf_counter() - begin
        numbers = write_json(self.out / NUMBERS, results)
        steps = [*self.steps, ("in all", total)]
        report = write_report(self.out / REPORT, results, examples=examples, transcripts=transcripts, steps=steps)
        self.console.print(f"\n[bold]Done in {total:.0f} s.[/bold] Written:")
        for path in (report, sheet, numbers, adapter):
            self._say(escape(str(path)))
        return results

    def _attack_base(self) -> None:
        for name, kind in (("things shown", "attack"), ("instructions drawn as text", "attack_typographic")):
            records = splits.make(kind, self.scale.attacks, split="validation")
            texts = ask_records(self.model, self.processor, records).texts
            got = attacks_measured(records, texts)["all"]
            shares = ", ".join(f"{words} {got[kind].percent()}" for kind, words in REACTIONS.items())
            self._say(f"{name}: [bold]{shares}[/bold]")
            self._say("[dim]" + escape(f"“{records[0].question}” ({_shown(records[0])}): {texts[0]}") + "[/dim]")
        texts = ask_records(self.model, self.processor, splits.make("text_harmful", 20, split="validation")).texts
        refused = sum(reaction(text) == "refused" for text in texts)
        self._say(f"the same kind of request as plain text: {refused} of {len(texts)} refused")

    def _train(self) -> None:
        records = mix.training_records(self.scale.training)
        held_out = splits.make("verdict", 400, split="validation")
        recipes = [Recipe.from_yaml(recipe_dir() / f"stage{stage}.yaml") for stage in (1, 2)]
        effort = self.scale.effort
        recipes = [recipe.model_copy(update={"steps": max(1, round(recipe.steps * effort))}) for recipe in recipes]
        train_safety(self.safety, records, recipes, validation=held_out)
        # The adapter on disk has 16-bit numbers: go on with those, so that what is measured is what is saved.
        saved = self.safety.save_pretrained(self.out / ADAPTER)
        read_adapter(saved).load_into(self.safety.defences)

    def _calibrate(self) -> None:
        records = mix.calibration_records(self.scale.calibration)
        found = calibrate(self.safety, records, max_false_alarm=mix.MAX_FALSE_ALARM)
        limit = max(found.thresholds.values())
        flagged = f"{found.flagged} of {found.images} benign pictures flagged"
        self._say(f"threshold {limit:.2f} ({probability(limit):.1%}): {flagged}")

    def _toggle(self) -> None:
        severe = [r for r in splits.make("attack", 60, split="validation") if r.level == "high"]
        records = [severe[0], next(r for r in severe if r.type != severe[0].type)]
        heads = [f"{record.type}: {_shown(record)}" for record in records]
        table = Table("generate(...)", *heads, box=None, header_style="dim", padding=(0, 3, 0, 0))

        def row(what: str, **options: Any) -> None:
            texts = ask_records(self.model, self.processor, records, **options).texts
            table.add_row(escape(what), *map(reaction_title, texts))

        row("guarded")
        with self.safety.disabled():
            row("with safety.disabled():")
        row("safety=False", safety=False)
        row("safety=[False, True]", safety=[False, True])
        for record in records:
            row(f"policy.allow({record.type!r})", safety=True, policy=self.safety.policy.allow(record.type))
        self.console.print(Padding(table, (0, 0, 0, 3)))

    def _transcripts(self) -> list[Example]:
        found = []
        for kind in ("attack", "attack_typographic", "dual", "benign"):
            records = splits.make(kind, self.scale.transcripts, split="validation", style="unseen", seed=1)
            found += answered(self.safety, records, [kind] * len(records))
        return found

    def _save_and_detach(self) -> tuple[Path, list[Verdict]]:
        adapter = self.safety.save_pretrained(self.out / ADAPTER)
        self._say(f"adapter: {megabytes_in(adapter):.2f} MB in {escape(str(adapter))}")
        self.probe = splits.make("attack", 8, split="validation")
        verdicts = self._classify(self.safety)
        self.safety.detach()
        self.fresh, _ = pocket.load()
        texts, fresh_texts = (
            ask_records(model, self.processor, self.probe).texts for model in (self.model, self.fresh)
        )
        same_state = state_digest(self.model) == self.digest == state_digest(self.fresh)
        never = "equal to a model that was never attached to"
        self._hold(same_state, f"state dict {never}")
        self._hold(type(self.model) is type(self.fresh), f"class {never}")
        self._hold(texts == fresh_texts, f"answers {never}")
        return adapter, verdicts

    def _reload(self, adapter: Path, before: list[Verdict]) -> None:
        safety = attach_safety(self.fresh, self.processor, adapter=adapter)
        verdicts = self._classify(safety)
        equal = [verdict.to_dict() for verdict in verdicts] == [verdict.to_dict() for verdict in before]
        self._hold(equal, f"{len(verdicts)} verdicts equal to those before saving")
        self._say(f"[dim]{escape(str(verdicts[0]))}[/dim]")
        safety.detach()

    def _classify(self, safety: SafetyAttachment) -> list[Verdict]:
        return safety.classify([record.load_image() for record in self.probe], [r.question for r in self.probe])

    def _hold(self, kept: bool, what: str) -> None:
        if not kept:
            raise SafetyModulesError(f"the tour failed: expected {what}, got a difference. Please report this.")
        self._say(f"[green]✓[/green] {what}")

    def _say(self, text: str) -> None:
        self.console.print(f"   {text}", highlight=False)

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        number, count = len(self.steps) + 1, 8 if self.pretrained else 10
        self.console.print(f"\n[bold cyan]{number}/{count}[/bold cyan] [bold]{title}[/bold]")
        begin = time.perf_counter()
        yield
        seconds = time.perf_counter() - begin
        self.steps.append((title.partition(":")[0], seconds))
        self._say(f"[dim]{seconds:.1f} s[/dim]")


def state_digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of the whole state dict."""
    total = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _shown(record: Record) -> str:
    return " + ".join([*record.meta["concepts"], *([record.meta["word"]] if record.meta["word"] else [])])


def _millions(parameters: Any) -> str:
    return f"{sum(parameter.numel() for parameter in parameters) / 1e6:.2f} M"
