"""Write the two GGUF files: `python -m training.export --run DIR --out llava_cli/data/shapes`.

Matrices in f16, everything with one dimension in f32.  The projector says with `clip.vision.feature_layer`
that all of its layers run: without the key llama.cpp leaves the last one out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
from torch import Tensor

from training.model import MEAN, STD, Config
from training.tokenizer import BEGIN, STOP, UNKNOWN

NAME = "shapes"
DESCRIPTION = "demo: simple shapes only"


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    values = tensor.detach().float().numpy()
    writer.add_tensor(name, values.astype(np.float16) if values.ndim > 1 else values.astype(np.float32))


def add_identity(writer: gguf.GGUFWriter, what: str) -> None:
    writer.add_name(NAME)
    writer.add_description(f"{DESCRIPTION} ({what})")
    writer.add_license("MIT")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export_model(path: Path, speaker: dict[str, Tensor], tokenizer: Path, config: Config) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    add_identity(writer, "language model")
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.width // config.heads)
    writer.add_rope_freq_base(config.rope_base)
    add_tokenizer(writer, tokenizer)
    names = {"token_embd": "token_embd", "output_norm": "output_norm", "output": "output"}
    for name, tensor in speaker.items():
        if not name.startswith("llama."):
            continue
        stem = name.removeprefix("llama.").removesuffix(".weight").replace("blocks.", "blk.")
        add_tensor(writer, f"{names.get(stem, stem)}.weight", tensor)
    finish(writer)


def add_tokenizer(writer: gguf.GGUFWriter, model: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = range(processor.vocab_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([processor.id_to_piece(number) for number in pieces])
    writer.add_token_scores([processor.get_score(number) for number in pieces])
    writer.add_token_types([piece_type(processor, number) for number in pieces])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(STOP)
    writer.add_unk_token_id(UNKNOWN)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def piece_type(processor: sentencepiece.SentencePieceProcessor, number: int) -> gguf.TokenType:
    if processor.is_unknown(number):
        return gguf.TokenType.UNKNOWN
    if processor.is_control(number):
        return gguf.TokenType.CONTROL
    if processor.is_byte(number):
        return gguf.TokenType.BYTE
    return gguf.TokenType.NORMAL


def export_projector(path: Path, tower: dict[str, Tensor], speaker: dict[str, Tensor], config: Config) -> None:
    writer = gguf.GGUFWriter(path, "clip")
    add_identity(writer, "vision tower and projector")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    writer.add_uint32("clip.vision.image_size", config.side)
    writer.add_uint32("clip.vision.patch_size", config.patch)
    writer.add_uint32("clip.vision.embedding_length", config.tower_width)
    writer.add_uint32("clip.vision.feed_forward_length", config.tower_hidden)
    writer.add_uint32("clip.vision.projection_dim", config.width)
    writer.add_uint32("clip.vision.block_count", config.tower_layers)
    writer.add_uint32("clip.vision.attention.head_count", config.tower_heads)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", config.norm_eps)
    writer.add_array("clip.vision.image_mean", list(MEAN))
    writer.add_array("clip.vision.image_std", list(STD))
    writer.add_array("clip.vision.feature_layer", [config.tower_layers])
    for name, tensor in tower.items():
        stem = name.replace("blocks.", "blk.").replace("position_embd", "position_embd.weight")
        add_tensor(writer, f"v.{stem}", tensor)
    for number, layer in ((0, "first"), (2, "second")):
        for part in ("weight", "bias"):
            add_tensor(writer, f"mm.{number}.{part}", speaker[f"projector.{layer}.{part}"])
    finish(writer)


def export(run: Path, out: Path, name: str) -> None:
    config = Config()
    saved = torch.load(run / f"{name}.pt", map_location="cpu")
    # Fine-tuning all parameters stores the tower beside the rest; otherwise it is the one of stage 0.
    speaker = saved["model"]
    tower = {key.removeprefix("tower."): value for key, value in speaker.items() if key.startswith("tower.")}
    if not tower:
        stored = torch.load(run / "tower.pt", map_location="cpu")["model"]
        tower = {key.removeprefix("tower."): value for key, value in stored.items() if key.startswith("tower.")}
    out.mkdir(parents=True, exist_ok=True)
    paths = out / f"{NAME}-model-f16.gguf", out / f"{NAME}-mmproj-f16.gguf"
    fresh = [path.with_suffix(".tmp") for path in paths]
    export_model(fresh[0], speaker, run / "tokenizer.model", config)
    export_projector(fresh[1], tower, speaker, config)
    for temporary, path in zip(fresh, paths, strict=True):
        temporary.replace(path)
        print(f"{path}: {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("training/run"))
    parser.add_argument("--out", type=Path, default=Path("llava_cli/data/shapes"))
    parser.add_argument("--name", default="speaker", help="name of the checkpoint")
    options = parser.parse_args()
    export(options.run, options.out, options.name)


if __name__ == "__main__":
    main()
