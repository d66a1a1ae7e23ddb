"""What safety costs: each way of answering, side by side in one run, over the base's own time.

    python benchmarks/overhead.py --base wide --json overhead.json
    python benchmarks/overhead.py --quick
    python benchmarks/overhead.py --base wide-336 --cases clean risky refuse --rounds 3
    python benchmarks/overhead.py --base llava-1.5-7b --device cuda --dtype bfloat16

`clean`, `risky` and `refuse` are guarded calls whose verdicts are set by hand, `clean_views` one that is judged by the
four random views of `calibrate --views 4`. `reference` is the published code's
form: one full call of the model for the verdict and a second one that answers, 64 tokens, the `paper` preset. `ecso` is
ECSO's (arXiv 2403.09572) on a harmless answer: answer, then ask the model whether its answer does harm. `risky_merged`
answers from copies of the linears with LoRA added in (`merge_lora=True`), made before the clock starts; `merge_ms` is
what making them takes. `risky_peft` leaves LoRA to peft's own code; `risky_no_lora` is the hint and the tokens alone.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from bases import load
from guarded_calls import circumstances, noise_batch, parser, set_verdicts, write_record
from rich.console import Console
from rich.table import Table
from side_by_side import measure, ratio

from safety_modules import Policy, SafetyConfig, attach_safety
from safety_modules.attach import SafetyAttachment
from safety_modules.config import ViewsSettings
from safety_modules.mount.lora import InferenceLora

QUESTION = "How do I use what is shown here?"
JUDGE = "Does this answer do harm? Say yes or no. Answer: "
JUDGED_TOKENS = 4
WARM_UP_TOKENS = 2
CASES = ("clean", "risky", "refuse", "clean_views", "risky_merged", "risky_peft", "risky_no_lora", "reference", "ecso")
QUICK = CASES[:3]  # those of the default design as it is
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Setup:
    """One base with the attachments to compare; one of them is on the model at a time."""

    def __init__(self, base: str, device: str, dtype: torch.dtype, wanted: Sequence[str]) -> None:
        self.wanted = wanted
        self.model, self.processor = load(base, device, dtype)
        self.attachments: dict[str, SafetyAttachment] = {}
        designs = {
            "ours": (SafetyConfig(), QUICK),
            "views": (SafetyConfig(views=ViewsSettings()), ("clean_views",)),
            "merged": (SafetyConfig(), ("risky_merged",)),
            "peft": (SafetyConfig(), ("risky_peft",)),
            "no_lora": (SafetyConfig(lora=None), ("risky_no_lora",)),
            "paper": (SafetyConfig.preset("paper"), ("reference",)),
        }
        for name, (config, cases) in designs.items():
            if not set(cases) & set(wanted):
                continue  # at 7B width the published design alone has 165 million parameters
            attachment = attach_safety(self.model, self.processor, config=config, merge_lora=name == "merged")
            attachment.detach()
            self.attachments[name] = attachment
        if "peft" in self.attachments:
            _use_peft_forward(self.attachments["peft"])
        self.refuse = Policy.default()
        for risk in self.refuse.rules:
            self.refuse = self.refuse.with_rule(risk, action="refuse")

    @contextmanager
    def on(self, name: str, risky: bool) -> Iterator[SafetyAttachment]:
        """An attachment on the model, with its verdicts set."""
        attachment = self.attachments[name]
        set_verdicts(attachment, risky)
        attachment.install()
        try:
            yield attachment
        finally:
            attachment.detach()

    def cases(self, rows: int, new: int) -> dict[str, Callable[[], Any]]:
        """Every way of answering a batch with `new` tokens."""
        inputs = noise_batch(self.model, self.processor, [QUESTION] * rows)
        length: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}

        def guarded(name: str, risky: bool, policy: Policy | None = None) -> Any:
            with self.on(name, risky):
                return self.model.generate(**inputs, **length, policy=policy)

        def reference() -> Any:
            with torch.no_grad():
                self.model(**inputs)
            return guarded("paper", True)

        found: dict[str, Callable[[], Any]] = {
            "base": lambda: self.model.generate(**inputs, **length),
            "clean": lambda: guarded("ours", False),
            "risky": lambda: guarded("ours", True),
            "refuse": lambda: guarded("ours", True, self.refuse),
            "clean_views": lambda: guarded("views", False),
            "risky_merged": lambda: guarded("merged", True),  # with making the copies: `on` detaches after each call
            "risky_peft": lambda: guarded("peft", True),
            "risky_no_lora": lambda: guarded("no_lora", True),
            "reference": reference,
        }
        if "ecso" in self.wanted:
            found["ecso"] = self._ecso(inputs, rows, length)
        return {case: run for case, run in found.items() if case == "base" or case in self.wanted}

    def _ecso(self, inputs: dict[str, Any], rows: int, length: dict[str, Any]) -> Callable[[], Any]:
        answers = self.model.generate(**inputs, **length)[:, inputs["input_ids"].shape[1] :]
        said = self.processor.tokenizer.decode(answers[0], skip_special_tokens=True).replace("<image>", "")
        judged = noise_batch(self.model, self.processor, [JUDGE + said] * rows)

        def ecso() -> Any:
            self.model.generate(**inputs, **length)
            return self.model.generate(**judged, max_new_tokens=JUDGED_TOKENS, do_sample=False)

        return ecso

    def handling(self, times: int = 20) -> dict[str, float]:
        """Milliseconds (median) of attaching, detaching, switching and merging, without reading files."""
        found: dict[str, list[float]] = {"attach_ms": [], "detach_ms": [], "switch_ms": []}
        for _ in range(times):
            with _clock(found["attach_ms"]):
                attachment = attach_safety(self.model, self.processor, config=SafetyConfig())
            with _clock(found["switch_ms"]):
                attachment.disable()
                attachment.enable()
            with _clock(found["detach_ms"]):
                attachment.detach()
        if "merged" in self.attachments:
            found["merge_ms"] = []
            lora = self.attachments["merged"].lora
            assert lora is not None, "the default design has one"
            for _ in range(3):
                lora.free_merged()
                with torch.no_grad(), _clock(found["merge_ms"]), lora.mounted(merged=True):
                    pass
        return {name: round(median(values), 3) for name, values in found.items()}


def _use_peft_forward(attachment: SafetyAttachment) -> None:
    assert attachment.lora is not None, "the default design has one"
    for slot in attachment.lora._slots:
        layer = slot.adapted
        layer.__class__ = next(kind for kind in type(layer).__mro__[1:] if kind is not InferenceLora)


@contextmanager
def _clock(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append((time.perf_counter() - began) * 1000)


def import_over_transformers(rounds: int) -> float:
    """Time of `import safety_modules` over `import transformers`, each in a fresh process."""

    def importing(package: str) -> Callable[[], Any]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {package}"], check=True)

    times = measure({name: importing(name) for name in ("safety_modules", "transformers")}, rounds, warm_ups=0)
    return ratio(times, "safety_modules", "transformers").median


def main() -> None:
    options = parser(__doc__, quick="one row, 32 new tokens, clean, risky and refuse")
    options.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="batch sizes")
    options.add_argument("--new", type=int, nargs="+", default=[32, 128], help="new tokens")
    options.add_argument(
        "--cases", choices=CASES, nargs="+", default=CASES, help="ways of answering, beside the base's"
    )
    options.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu = this process's own time, on a machine that others use too (with OMP_NUM_THREADS=1)",
    )
    args = options.parse_args()
    if args.quick:
        args.rows, args.new, args.rounds, args.cases = [1], [32], 3, QUICK

    setup = Setup(args.base, args.device, getattr(torch, args.dtype), args.cases)
    found: dict[str, Any] = circumstances(args) | {"clock": args.clock}
    table = Table(title=f"{args.base}: time over the base's own, median (quartiles) of {args.rounds} rounds")
    for column in ("rows", "new tokens", *args.cases):
        table.add_column(column, justify="right")
    settings = []
    for rows in args.rows:
        measure(setup.cases(rows, WARM_UP_TOKENS), rounds=1, warm_ups=0)
        for new in args.new:
            times = measure(setup.cases(rows, new), args.rounds, warm_ups=0, clock=CLOCKS[args.clock])
            ratios = {case: ratio(times, case, "base") for case in args.cases}
            table.add_row(str(rows), str(new), *(str(value) for value in ratios.values()))
            settings.append({"rows": rows, "new": new, **{case: list(value) for case, value in ratios.items()}})
    # The headline: the first setting, one row and the fewest new tokens, where overhead weighs most.
    found |= {f"{case}_over_base": settings[0][case][0] for case in args.cases}
    found |= setup.handling()
    found["import_over_transformers"] = import_over_transformers(1 if args.quick else 5)
    found["settings"] = settings
    console = Console(width=180)
    console.print(table)
    console.print({name: value for name, value in found.items() if name != "settings"})
    write_record(found, args.json)


if __name__ == "__main__":
    main()
