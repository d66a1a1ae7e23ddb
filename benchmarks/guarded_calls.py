"""What benchmarks of guarded calls share: options, batches of noise pictures, verdicts set by hand, the record."""

import argparse
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bases import NAMES
from PIL import Image
from side_by_side import environment

from safety_modules.attach import SafetyAttachment


def parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """The options that every such benchmark has.

    Args:
        description: of the benchmark.
        quick: what its option --quick does.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=NAMES, default="wide")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="file for the medians")
    return parser


def noise_batch(model: Any, processor: Any, questions: Sequence[str]) -> dict[str, Any]:
    """Each question with a noise picture, left-padded, as the model takes it."""
    size = model.config.vision_config.image_size
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)) for _ in questions]
    texts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
    inputs = processor(images=pictures, text=texts, return_tensors="pt", padding=True)
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def set_verdicts(attachment: SafetyAttachment, risky: bool) -> None:
    """Make the head judge every picture alike, whatever it shows."""
    attachment.trained = True
    sign = 1.0 if risky else -1.0
    with torch.no_grad():
        for head in (member.head for member in attachment.modules.members):
            if hasattr(head, "type_bias"):
                head.type_bias.fill_(-50.0)
                head.type_bias[1] = 50.0 * sign
                head.clean.bias.fill_(-50.0 * sign)
            else:
                head.types.bias.fill_(-50.0)
                head.types.bias[1 if risky else -1] = 50.0


def circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """What a record begins with: when, on which base and with what it was measured."""
    return {"date": str(date.today()), "base": args.base, "dtype": args.dtype} | environment(args.device)


def write_record(record: dict[str, Any], path: Path | None) -> None:
    """Write what was found, if there is a file for it."""
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
