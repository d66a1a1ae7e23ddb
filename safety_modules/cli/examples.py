"""Examples that `--help` shows, by command; a test parses every one of them."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (
        "safety-modules demo --pretrained",
        "safety-modules demo --web",
        "safety-modules demo --web --model llava-hf/llava-1.5-7b-hf --adapter my-7b --compare my-other-7b",
    ),
    "train": (
        "safety-modules train --out my-pocket --runs runs --steps 50",
        "safety-modules train --model llava-hf/llava-1.5-7b-hf --quantize nf4 --dtype bfloat16 --data DATA "
        "--validation HELD_OUT --recipe llava-1.5-7b/stage1 --recipe llava-1.5-7b/stage2-qlora --out my-7b --runs runs",
        "safety-modules train --extend llava-pocket-safe --new-type allergen --data mine --out my-adapter --runs runs",
        "safety-modules train --defence davsp --out my-davsp --runs runs --set width=4",
    ),
    "fit": (
        "safety-modules fit cmrm --out my-cmrm --alpha 0.7",
        "safety-modules fit shiftdc llava-hf/llava-1.5-7b-hf --anchors texts.yaml --quantize nf4 --dtype bfloat16 "
        "--out my-shiftdc",
    ),
    "calibrate": (
        "safety-modules calibrate my-adapter --benign benign --data held-out --max-false-alarm 0.01",
        "safety-modules calibrate my-7b --model llava-hf/llava-1.5-7b-hf --benign benign.jsonl",
        "safety-modules calibrate my-adapter --views 4 --benign benign",
    ),
    "audit": (
        "safety-modules audit pictures --out audits/first",
        "safety-modules audit train.jsonl --model llava-hf/llava-1.5-7b-hf --adapter my-7b --out audits/train",
        "safety-modules audit --out audits/train --apply marks.json --to cleaned",
    ),
    "doctor": (
        "safety-modules doctor llava-pocket --adapter llava-pocket-safe",
        "safety-modules doctor llava-hf/llava-1.5-7b-hf --quantize nf4 --dtype bfloat16 --json doctor.json",
    ),
    "classify": (
        "safety-modules classify picture.png folder --question 'What is this?' --overlays maps",
        "safety-modules classify folder --adapter my-7b --model llava-hf/llava-1.5-7b-hf --json",
    ),
    "serve": (
        "safety-modules serve",
        "safety-modules serve llava-hf/llava-1.5-7b-hf --adapter my-7b --host 0.0.0.0 --access keys.yaml",
    ),
    "inspect": ("safety-modules inspect llava-pocket-safe", "safety-modules inspect --plan llava-1.5-7b"),
    "path": (
        "safety-modules path llava-1.5-7b/stage1",
        "accelerate launch --config_file $(safety-modules path accelerate/multi-gpu) --num_processes 8 "
        "-m safety_modules train --model llava-hf/llava-1.5-7b-hf --data DATA --out my-7b --runs runs",
    ),
    "evaluate": (
        "safety-modules evaluate --suite pocket --limit 20 --defence ecso --defence gated --out runs/first",
        "safety-modules evaluate --suite pocket --part attack/seen --limit 20 --attack apgd-4-clean --out runs/attack",
        "safety-modules evaluate --suite figstep --data hf://owner/name --model llava-hf/llava-1.5-7b-hf "
        "--adapter my-7b",
    ),
    "evaluate pocket": ("safety-modules evaluate pocket --samples 50 --json numbers.json",),
    "data check": ("safety-modules data check mine --test held-out --new-type allergen --json report.json",),
}


def epilog(command: str) -> str:
    """What stands below the options of a command."""
    return "\n\n".join(["Examples:", *EXAMPLES[command]])
