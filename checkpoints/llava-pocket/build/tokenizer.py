"""Pocket's tokenizer and processor: Llama's scheme (BPE, metaspace, byte fallback) and LLaVA-1.5's chat format."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from safety_modules.pocket.scenes import PATCH, SIZE

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
# LLaVA-1.5's: "USER: <image>\n... ASSISTANT: ...</s>USER: ...", an optional system message first.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


MERGES = 1550


def train_tokenizer(texts: list[str], merges: int = MERGES) -> Tokenizer:
    """BPE over the texts; whatever it has never seen falls back to bytes, so that a user's own words survive."""
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = _words()
    alphabet = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    draft.train_from_iterator(texts, trainer)
    trained = json.loads(draft.to_str())["model"]
    names = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *sorted(trained["vocab"], key=trained["vocab"].get),
    ]
    vocabulary = {name: index for index, name in enumerate(names)}
    pairs = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in trained["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer = _words()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return tokenizer


def _words() -> pre_tokenizers.PreTokenizer:
    """Words with their leading space; punctuation marks stand alone, so that `dog.` and `dog?` share a token."""
    marks = pre_tokenizers.Split(Regex(r"[.,:;?!\n]"), behavior="isolated")
    return pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), marks])


def build_processor(tokenizer: Tokenizer) -> LlavaProcessor:
    """The processor that goes with it; pictures are scaled and cropped to 96 x 96 as LLaVA-1.5 does to 336 x 336."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=1024,
        model_input_names=["input_ids", "attention_mask"],  # transformers 4 adds token_type_ids otherwise
        extra_special_tokens={"image_token": "<image>"},
    )
    side = {"height": SIZE, "width": SIZE}
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=side),
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save_processor(processor: LlavaProcessor, folder: Path) -> None:
    """`save_pretrained`, with a tokenizer_config.json that transformers 4 reads as well as 5."""
    processor.tokenizer.backend_tokenizer.no_padding()  # what the last call left there would be saved
    processor.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": {"image_token": "<image>"}}
    for name in ("backend", "model_specific_special_tokens", "is_local", "local_files_only"):
        config.pop(name, None)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
