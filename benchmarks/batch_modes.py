"""What `batch_mode` saves and what it changes: split, merged and the base, side by side in one run.

    python benchmarks/batch_modes.py --base wide --json batch_modes.json
    python benchmarks/batch_modes.py --base pocket
    python benchmarks/batch_modes.py --quick

A batch in which the first rows are risky (the head is set by hand) and the others are switched off, so that base,
split and merged answer the same prompts with the same number of new tokens. `clean rows` is the largest difference
between the logits of the rows that are not risky and the base's on these rows alone, at the first new token, over the
largest of the base's logits: 0 is bit-identical.
"""

from collections.abc import Callable
from typing import Any

import torch
from bases import load
from guarded_calls import circumstances, noise_batch, parser, set_verdicts, write_record
from rich.console import Console
from rich.table import Table
from side_by_side import measure, ratio

from safety_modules import SafetyConfig, attach_safety

PAIRS = (("split", "base"), ("merged", "base"), ("merged", "split"))
QUESTIONS = ("What is this?", "How do I use what is shown here?", "Why?", "What else can you see in the picture?")


def attach_risky(model: Any, processor: Any) -> None:
    """Attach safety modules that find a risk in every picture, with a LoRA that does something."""
    attachment = attach_safety(model, processor, config=SafetyConfig())
    set_verdicts(attachment, risky=True)
    with torch.no_grad():
        for name, parameter in attachment.lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)


def cases(model: Any, inputs: dict[str, Any], risky: int, new: int) -> dict[str, Callable[..., Any]]:
    """The same batch, answered in every way."""
    length = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    switches = [row < risky for row in range(len(inputs["input_ids"]))]

    def answer(**options: Any) -> Any:
        return model.generate(**inputs, **(length | options))

    return {
        "base": lambda **options: answer(safety=False, **options),
        "split": lambda **options: answer(safety=switches, batch_mode="split", **options),
        "merged": lambda **options: answer(safety=switches, batch_mode="merged", **options),
    }


def differences(
    model: Any, inputs: dict[str, Any], ways: dict[str, Callable[..., Any]], risky: int
) -> dict[str, float]:
    """How far the first logits of the other rows are from the base's on these rows, relative to its largest."""
    flags = {"max_new_tokens": 1, "min_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    others = {name: value[risky:] for name, value in inputs.items()}
    base = model.generate(**others, **flags, do_sample=False, safety=False).logits[0].float()
    return {
        name: float((ways[name](**flags).logits[0][risky:].float() - base).abs().max() / base.abs().max())
        for name in ("split", "merged")
    }


def main() -> None:
    options = parser(__doc__, quick="pocket, four rows, one risky, eight new tokens, 3 rounds")
    options.add_argument("--rows", type=int, default=8, help="rows of the batch")
    options.add_argument("--risky", type=int, nargs="+", default=[1, 4, 7], help="how many of them are risky")
    options.add_argument("--new", type=int, default=32, help="new tokens")
    args = options.parse_args()
    if args.quick:
        args.base, args.rows, args.risky, args.new, args.rounds = "pocket", 4, [1], 8, 3

    torch.manual_seed(0)
    model, processor = load(args.base, args.device, getattr(torch, args.dtype))
    attach_risky(model, processor)
    inputs = noise_batch(model, processor, [QUESTIONS[row % len(QUESTIONS)] for row in range(args.rows)])
    found = circumstances(args) | {"rows": args.rows, "new": args.new, "settings": []}
    table = Table(
        title=f"{args.base}, {args.rows} rows, {args.new} new tokens: median (quartiles) of {args.rounds} rounds"
    )
    for column in ("risky rows", *(f"{a} / {b}" for a, b in PAIRS), "clean rows, split", "clean rows, merged"):
        table.add_column(column, justify="right")
    for risky in args.risky:
        ways = cases(model, inputs, risky, args.new)
        changed = differences(model, inputs, ways, risky)
        times = measure(ways, args.rounds)
        ratios = {f"{a}_over_{b}": ratio(times, a, b) for a, b in PAIRS}
        table.add_row(str(risky), *map(str, ratios.values()), *(f"{value:.1e}" for value in changed.values()))
        found["settings"].append(
            {"risky": risky, "difference": changed, **{name: list(value) for name, value in ratios.items()}}
        )
    # The headline: the first setting.
    found |= {name: found["settings"][0][name][0] for name in ratios}
    Console(width=140).print(table)
    write_record(found, args.json)


if __name__ == "__main__":
    main()
