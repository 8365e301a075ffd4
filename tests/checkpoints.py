"""Tiny checkpoints with random weights, on disk as the real ones are, for tests of providers."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

WORDS = (
    "a the dog cat ball chases sqlite much longer text about nothing in particular with few "
    "more words than others one two three four five six seven eight nine ten half an emoji"
).split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def modules() -> Any:
    """Return the package's modules, wherever its version has them."""
    import sentence_transformers

    try:
        from sentence_transformers.sentence_transformer import modules as found
    except ImportError:
        return sentence_transformers.models
    return found


def seed() -> None:
    import torch

    torch.manual_seed(7)


def write_bert(folder: Path, *, normalize: bool = True, **options: Any) -> Path:
    """Write a BERT with mean pooling that reads 32 of its 64 tokens; return its folder.

    Args:
        options: of ``SentenceTransformer``, such as prompts and similarity_fn_name.
    """
    import transformers
    from sentence_transformers import SentenceTransformer

    seed()
    bert = folder / "bert"
    bert.mkdir(parents=True)
    vocabulary = list(dict.fromkeys([*SPECIAL, *WORDS]))
    (bert / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    transformers.BertTokenizerFast.from_pretrained(bert).save_pretrained(bert)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    transformers.BertModel(config).eval().save_pretrained(bert)
    parts = [modules().Transformer(str(bert), max_seq_length=32), modules().Pooling(16)]
    if normalize:
        parts.append(modules().Normalize())
    model = SentenceTransformer(modules=parts, device="cpu", **options)
    model.save(str(folder / "model"))
    return folder / "model"


def write_instructor(folder: Path) -> Path:
    """Write what hkunlp/instructor-* are: T5's encoder, pooled without the prompt, and a layer."""
    import tokenizers
    import transformers
    from sentence_transformers import SentenceTransformer

    seed()
    t5 = folder / "t5"
    t5.mkdir(parents=True)
    special = ["<pad>", "</s>", "<unk>"]
    more = "represent computer science documentation or question for retrieving : ,".split()
    vocabulary = {word: n for n, word in enumerate(dict.fromkeys([*special, *WORDS, *more]))}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = tokenizers.normalizers.Lowercase()
    inner.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(t5)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    transformers.T5EncoderModel(config).eval().save_pretrained(t5)
    parts = [
        modules().Transformer(str(t5), max_seq_length=40),
        modules().Pooling(16, pooling_mode="mean", include_prompt=False),
        modules().Dense(16, 12, bias=False, activation_function=_identity()),
        modules().Normalize(),
    ]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "instructor-tiny"))
    return folder / "instructor-tiny"


def _identity() -> Any:
    import torch

    return torch.nn.Identity()


def write_clip(folder: Path, *, old: bool = False) -> Path:
    """Write a CLIP for images of 32 pixels and texts of 77 tokens; return its folder.

    Args:
        old: in the layout of clip-ViT-B-32, with a module of its own for CLIP.
    """
    import tokenizers
    import transformers
    from sentence_transformers import SentenceTransformer

    seed()
    clip = folder / "clip"
    clip.mkdir(parents=True)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pairs = [("d", "o"), ("do", "g</w>"), ("c", "a"), ("ca", "t</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(p) for p in pairs)]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: n for n, token in enumerate([*tokens, *ends])}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=77)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(clip)
    sides = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        text_config={
            **sides,
            "num_attention_heads": 2,
            "vocab_size": len(vocabulary),
            "bos_token_id": vocabulary[ends[0]],
            "eos_token_id": vocabulary[ends[1]],
            "pad_token_id": vocabulary[ends[1]],
        },
        vision_config={**sides, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    transformers.CLIPModel(config).eval().save_pretrained(clip)
    if old:
        whole = folder / "clip-ViT-tiny"
        whole.mkdir()
        clip.rename(whole / "0_CLIPModel")
        kind = "sentence_transformers.models.CLIPModel"
        module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": kind}
        (whole / "modules.json").write_text(json.dumps([module]), "utf-8")
        return whole
    model = SentenceTransformer(modules=[modules().Transformer(str(clip))], device="cpu")
    model.save(str(folder / "tiny-clip"))
    return folder / "tiny-clip"


def image(
    colour: Any = "red", size: tuple[int, int] = (48, 40), *, mode: str = "RGB", shape: str = "disc"
) -> Any:
    """Return a picture of a disc, or of a bar, on grey."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", size, "grey")
    draw = ImageDraw.Draw(picture)
    box = (size[0] // 4, size[1] // 8, size[0] // 2, size[1] // 2)
    (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
    return picture.convert(mode)


def image_bytes(picture: Any = None, format: str = "PNG", **options: Any) -> bytes:
    """Return a picture as the bytes of a file."""
    written = BytesIO()
    (picture or image()).save(written, format, **options)
    return written.getvalue()
