# mypy: ignore-errors
# transformers, tokenizers and sentencepiece live in an environment of their own (requirements.txt).
"""Makes small tokenizers of the five families, as transformers has them and as GGUF vocabularies.

How a family treats spaces is not ours to choose; it is what the published tokenizers say:

* `llama` (vicuna): `legacy: false`. The dummy space stands only in front of a whole chunk, not after `</s>`.
* `mistral` (Mistral-7B-Instruct-v0.2 in early 2024): `legacy: true`, a dummy space after `</s>`, too. Its later chat
  template has `legacy: false` and writes that space itself: the same tokens.
* `yi` (Nous-Hermes-2-Yi-34B): a SentencePiece model without the dummy prefix (Yi's technical report, on its tokenizer;
  01-ai/Yi-1.5 #37 shows it behind special tokens). The file itself was not seen here.
* `phi3`: a dummy space in front of every piece of text, and chat tokens with `rstrip: true`, which eat the white space
  behind them (huggingface/transformers #32136; `llama_vocab` in llama.cpp does the same).
* `llama3`: byte-level BPE, no spaces added.
"""

from __future__ import annotations

import io
import json
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from tests.reference.layouts import CHATS, IMAGE, LLAVA_SYSTEM, special

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PHI3_TOKENS = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")
LLAMA3_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def corpus() -> list[str]:
    """Return the text that the pieces are learnt from: what the chats say, without what only attackers type."""
    said = [LLAVA_SYSTEM, "USER: ASSISTANT: [INST] [/INST] <<SYS>> system user assistant Answer the questions."]
    for name, chat in CHATS.items():
        if "special" not in name:
            said += [chat["system"] or ""]
            said += [text for question, _, answer in chat["turns"] for text in (question, answer or "")]
    said.append(
        "The picture shows a small red circle, a large blue square and a green triangle in front of a yellow wall. "
        "There are three shapes; the circle is above the square, and the triangle is to the right of both of them. "
        "Please describe in detail what you see. I am not sure whether it is near the bottom or near the top."
    )
    return [line for text in said for line in text.split("\n") if line] * 20


def _sentencepiece(add_dummy_prefix: bool) -> sentencepiece_model_pb2.ModelProto:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=model, model_type="bpe", vocab_size=480, byte_fallback=True,
        character_coverage=0.999, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=add_dummy_prefix, allow_whitespace_only_pieces=True,
        unk_id=0, bos_id=1, eos_id=2, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())


class SentencePieceFamily:
    """One SentencePiece vocabulary with the chat tokens of its family."""

    def __init__(self, *, legacy: bool = False, dummy_prefix: bool = True, chat: tuple[str, ...] = (), **added) -> None:
        self._proto = _sentencepiece(dummy_prefix)
        self._legacy, self._dummy_prefix = legacy, dummy_prefix
        pieces = [piece.piece for piece in self._proto.pieces]
        self._n_pieces = len(pieces)
        self._tokens = pieces + list(chat)
        types = [piece.type for piece in self._proto.pieces] + [CONTROL] * len(chat)
        # What is special gets a name that nobody can type.
        names = [special(text) if kind == CONTROL else text for text, kind in zip(self._tokens, types, strict=True)]
        ids = {name: number for number, name in enumerate(names[: self._n_pieces])}
        self.hf = LlamaTokenizer(
            vocab=ids, merges=generate_merges({name: n for name, n in ids.items() if n > 258}, skip_tokens=()),
            unk_token="<unk>", bos_token=special("<s>"), eos_token=special("</s>"), legacy=legacy,
            add_prefix_space=dummy_prefix,
        )  # fmt: skip
        self.hf.add_tokens([AddedToken(special(name), normalized=False, special=True, **added) for name in chat], True)
        assert [self.hf.convert_tokens_to_ids(name) for name in names[1:3]] == [1, 2]
        assert self.hf.convert_tokens_to_ids([special(name) for name in chat]) == [
            self._n_pieces + n for n in range(len(chat))
        ]
        self._rstrip = added.get("rstrip", False)
        self._specials = {special(name): number for number, name in enumerate(self._tokens) if types[number] == CONTROL}
        self.vocabulary: dict[str, Any] = {
            "model": "llama", "pre": "default", "tokens": self._tokens, "types": types,
            "scores": [piece.score for piece in self._proto.pieces] + [0.0] * len(chat),
            "bos": 1, "eos": 2, "add_bos": True,
        }  # fmt: skip
        plain = sentencepiece_model_pb2.ModelProto.FromString(self._proto.SerializeToString())
        plain.normalizer_spec.add_dummy_prefix = False
        self._plain = sentencepiece.SentencePieceProcessor()
        self._plain.LoadFromSerializedProto(plain.SerializeToString())

    def ids(self, chunk: str) -> list[int]:
        """Tokenise a chunk with BOS in front, by transformers and, as a second opinion, by SentencePiece itself."""
        tokens = self.hf(chunk, add_special_tokens=False).input_ids
        assert tokens == self._by_sentencepiece(chunk), (chunk, tokens, self._by_sentencepiece(chunk))
        return [self.vocabulary["bos"], *tokens]

    def _by_sentencepiece(self, chunk: str) -> list[int]:
        ids: list[int] = []
        rest, at_start = chunk, True
        while rest:
            found = min(((rest.find(name), name) for name in self._specials if name in rest), default=(len(rest), ""))
            text = rest[: found[0]]
            if not at_start and self._rstrip:
                text = text.lstrip()
            if text:
                prefix = self._dummy_prefix and (at_start or self._legacy)
                ids += self._encode((" " if prefix else "") + text)
            ids += [self._specials[found[1]]] if found[1] else []
            rest, at_start = rest[found[0] + len(found[1]) :], False
        return ids

    def _encode(self, text: str) -> list[int]:
        # SentencePiece drops a space in front; transformers' slow tokenizer protects it by "<unk>", and so does this.
        guard = self._plain.encode("<unk>")
        tokens = self._plain.encode("<unk>" + text)
        assert tokens[: len(guard)] == guard
        return tokens[len(guard) :]


class ByteLevelFamily:
    """A byte-level BPE with the chat tokens of Llama 3."""

    def __init__(self) -> None:
        tokenizer = Tokenizer(models.BPE(ignore_merges=True))
        split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated", invert=False)
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        lines = [line + "\n\n" for line in corpus()]
        trainer = trainers.BpeTrainer(vocab_size=460, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        bpe = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
        bos = len(tokens)
        tokenizer.add_special_tokens([AddedToken(special(n), normalized=False, special=True) for n in LLAMA3_TOKENS])
        name = special(LLAMA3_TOKENS[0])
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, bos)])
        self.hf = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=name)
        self.vocabulary: dict[str, Any] = {
            "model": "gpt2", "pre": "llama-bpe", "tokens": [*tokens, *LLAMA3_TOKENS],
            "types": [NORMAL] * len(tokens) + [CONTROL] * len(LLAMA3_TOKENS),
            "merges": [" ".join(pair) for pair in bpe["merges"]],
            "bos": bos, "eos": bos + 1, "add_bos": True,
        }  # fmt: skip

    def ids(self, chunk: str) -> list[int]:
        """Tokenise a chunk with BOS in front."""
        return self.hf(chunk).input_ids


def families() -> dict[str, tuple[str, SentencePieceFamily | ByteLevelFamily]]:
    """Return the vocabulary of each family under its name, with the layout it is used with."""
    return {
        "llama": ("llava_v1", SentencePieceFamily()),
        "mistral": ("mistral_instruct", SentencePieceFamily(legacy=True)),
        "yi": ("chatml_direct", SentencePieceFamily(dummy_prefix=False, chat=("<|im_start|>", "<|im_end|>"))),
        "llama3": ("llama3", ByteLevelFamily()),
        "phi3": ("phi3", SentencePieceFamily(legacy=True, chat=PHI3_TOKENS, rstrip=True)),
    }


def image_token_ids(prompt: str, family: SentencePieceFamily | ByteLevelFamily, image: int = -200) -> list[int]:
    """Tokenise as LLaVA's `tokenizer_image_token`: each chunk between pictures for itself, BOS only in front."""
    chunks = [family.ids(chunk) for chunk in prompt.split(IMAGE)]
    bos = chunks[0][0]
    assert all(chunk[0] == bos for chunk in chunks)
    ids = [bos]
    for number, chunk in enumerate(chunks):
        ids += ([image] if number else []) + chunk[1:]
    return ids
