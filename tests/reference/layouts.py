"""The authors' prompt layouts, written out once more and independently of `llava_cli.prompts`.

Sources: haotian-liu/LLaVA `llava/conversation.py` (v1.2: `conv_llava_v1`, `conv_mistral_instruct`,
`conv_chatml_direct`) with `Conversation.get_prompt`; InternLM/xtuner `PROMPT_TEMPLATE` (`llama3_chat`, `phi3_chat`).
Pictures stand where `preprocess_multimodal` of LLaVA's `train.py` and the Hugging Face templates put them: each on a
line of its own in front of the text of its message, in whatever turn.

Special tokens and pictures are spelt in private characters here (`special("</s>")`, `IMAGE`), so that a user who types
`</s>` or `<image>` types text. Apart from that the strings are the authors'.
"""

from __future__ import annotations

from typing import Any

IMAGE = "\ue000"


def special(name: str) -> str:
    """Spell a special token as nobody can type it."""
    return f"\ue001{name.strip('<>|')}\ue002"


EOS, IM_START, IM_END = special("</s>"), special("<|im_start|>"), special("<|im_end|>")
HEADER, END_HEADER, EOT = special("<|start_header_id|>"), special("<|end_header_id|>"), special("<|eot_id|>")
SYSTEM, USER, ASSISTANT, END = special("<|system|>"), special("<|user|>"), special("<|assistant|>"), special("<|end|>")

LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

Chat = dict[str, Any]
"""`system` (None: the authors' own; "": none) and `turns`: [question, pictures, answer or None] each."""


def _questions(chat: Chat) -> list[tuple[str, str | None]]:
    return [(f"{IMAGE}\n" * pictures + question, answer) for question, pictures, answer in chat["turns"]]


def llava_v1(chat: Chat) -> str:
    """SeparatorStyle.TWO, sep " ", sep2 "</s>"; with no system sentence at all, as the HF processor writes it."""
    system = LLAVA_SYSTEM if chat["system"] is None else chat["system"]
    text = system + " " if system else ""
    for question, answer in _questions(chat):
        text += "USER" + ": " + question + " "
        text += "ASSISTANT" + ":" + ("" if answer is None else " " + answer + EOS)
    return text


def mistral_instruct(chat: Chat) -> str:
    """SeparatorStyle.LLAMA_2, sep "", sep2 "</s>"; the authors' system prompt is empty."""
    text = ""
    for number, (question, answer) in enumerate(_questions(chat)):
        system = f"<<SYS>>\n{chat['system']}\n<</SYS>>\n\n" if number == 0 and chat["system"] else ""
        text += f"[INST] {system + question} [/INST]"
        if answer is not None:
            text += " " + answer + " " + EOS
    return text


def chatml_direct(chat: Chat) -> str:
    """SeparatorStyle.MPT, sep "<|im_end|>"; the authors always have a system prompt."""
    system = "Answer the questions." if chat["system"] is None else chat["system"]
    text = f"{IM_START}system\n{system}{IM_END}" if system else ""
    for question, answer in _questions(chat):
        text += f"{IM_START}user\n" + question + IM_END
        text += f"{IM_START}assistant\n" + ("" if answer is None else answer + IM_END)
    return text


def llama3(chat: Chat) -> str:
    """Write xtuner's llama3_chat: SYSTEM, INSTRUCTION, SUFFIX."""
    text = f"{HEADER}system{END_HEADER}\n\n{chat['system']}{EOT}" if chat["system"] else ""
    for question, answer in _questions(chat):
        text += f"{HEADER}user{END_HEADER}\n\n{question}{EOT}{HEADER}assistant{END_HEADER}\n\n"
        text += "" if answer is None else answer + EOT
    return text


def phi3(chat: Chat) -> str:
    """Write xtuner's phi3_chat: SYSTEM, INSTRUCTION, SUFFIX, SEP."""
    text = f"{SYSTEM}\n{chat['system']}{END}\n" if chat["system"] else ""
    for question, answer in _questions(chat):
        text += f"{USER}\n{question}{END}\n{ASSISTANT}\n"
        text += "" if answer is None else answer + END + "\n"
    return text


LAYOUTS = {
    "llava_v1": llava_v1,
    "mistral_instruct": mistral_instruct,
    "chatml_direct": chatml_direct,
    "llama3": llama3,
    "phi3": phi3,
}

_Q1, _A1, _Q2, _A2, _Q3 = (
    "What color is the circle?",
    "The circle is red.",
    "How many shapes are there?\nCount them twice.",
    "Two: a circle and a square.",
    "Is one left of the other?",
)
_TYPED = (
    "Explain </s> and <s>, <image>, [INST] x [/INST], <|im_end|><|im_start|>user, "
    "<|eot_id|><|start_header_id|>system, <|end|><|user|>."
)

CHATS: dict[str, Chat] = {
    "one turn": {"system": None, "turns": [[_Q1, 1, None]]},
    "one turn, own system": {"system": "Answer in one word.", "turns": [[_Q1, 1, None]]},
    "one turn, no system": {"system": "", "turns": [[_Q1, 1, None]]},
    "three turns": {"system": None, "turns": [[_Q1, 1, _A1], [_Q2, 0, _A2], [_Q3, 0, None]]},
    "three turns, own system": {
        "system": "Be brief.\n\nUse words.",
        "turns": [[_Q1, 1, _A1], [_Q2, 0, _A2], [_Q3, 0, None]],
    },
    "text only": {"system": None, "turns": [["Say hello.", 0, None]]},
    "text only, no system": {"system": "", "turns": [["Say hello.", 0, None]]},
    "picture in the second turn": {"system": None, "turns": [["Hello!", 0, "Hi there."], [_Q1, 1, None]]},
    "two pictures": {"system": None, "turns": [["Compare them.", 2, None]]},
    "a picture in every turn": {"system": None, "turns": [[_Q1, 1, _A1], ["And this?", 1, None]]},
    "special tokens typed by the user": {"system": None, "turns": [[_TYPED, 1, None]]},
    "special tokens typed without a picture": {"system": "", "turns": [[_TYPED, 0, "</s> ends."], [_TYPED, 0, None]]},
    "special tokens first and last": {"system": None, "turns": [["</s>", 0, "<|end|>"], ["<|im_start|>", 0, None]]},
    "other scripts": {"system": None, "turns": [["Was ist größer — 圓 oder 方? 🙂", 1, "圓。"], ["Où?  Là!", 0, None]]},
    "answer over lines": {"system": None, "turns": [["List them.", 1, "1. circle\n2. square\n"], ["Go on.", 0, None]]},
}
