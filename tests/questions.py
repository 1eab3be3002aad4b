"""Asks tiny models as new processes would, and looks at what that leaves on disk."""

from __future__ import annotations

import random

import llama_cpp
from PIL import Image

from llava_cli import LlavaChatHandler, LoadOptions, PrefixCache, Sampling, load
from llava_cli.pictures import open_picture
from llava_cli.settings import cache_dir

GREEDY = Sampling(temperature=0, max_tokens=8)
ANSWER = ("-t", "0", "-n", "8", "-q", "--stats")
QUESTION = "What color is the circle?"
OTHER = "How many shapes are there?"


OPENING = 31
"""Cells in front of the first picture: BOS, the system sentence and `USER: `."""


def picture(seed, size=(40, 30)):
    """Return noise that only this seed gives."""
    pixels = random.Random(seed).randbytes(size[0] * size[1] * 3)
    return open_picture(Image.frombytes("RGB", size, pixels), name=f"noise {seed}.png")


def opened(pair, *, sampling=GREEDY, cache=True, **options):
    """Open a model as a new process would: nothing of an earlier one is in memory."""
    settings = LoadOptions(**{"context": 512, "threads": 1, **options})
    files = {"model_path": pair[0], "projector_path": pair[1], "prompt_layout": "llava_v1"}
    return load(**files, options=settings, sampling=sampling, cache=cache)


def ask(pair, question=QUESTION, about=None, *, system=None, **options):
    """Return the reply of a model opened for this one question, and closed again."""
    with opened(pair, **options) as model:
        reply = model.ask(about or picture(1), question, system=system)
        assert reply.text
    return reply


def took(reply):
    """Return how many cells came from the cache, and how many pictures were encoded."""
    return reply.usage.reused_cells, reply.usage.pictures_encoded


def kept(suffix="*"):
    """Return the entries on disk, and whatever else lies there."""
    return sorted((cache_dir() / "pictures").glob(suffix))


def entry(suffix):
    """Return the one entry of that kind."""
    (path,) = kept(f"*.{suffix}")
    return path


def plain(pair, *, keep=True, close=True, **options):
    """Ask as a user of llama-cpp-python does; return the answer and (cells reused, pictures encoded)."""
    mine = LlavaChatHandler(pair[1], cache=PrefixCache() if keep else None)
    settings = {"n_ctx": 512, "n_batch": 64, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "flash_attn": True}
    llama = llama_cpp.Llama(str(pair[0]), chat_handler=mine, verbose=False, **{**settings, **options})
    content = [{"type": "picture", "picture": picture(1)}, {"type": "text", "text": QUESTION}]
    message = {"role": "user", "content": content}
    answer = llama.create_chat_completion(messages=[message], max_tokens=8, temperature=0)
    if close:
        llama.close()
    return answer["choices"][0]["message"]["content"], (mine.reading.reused, mine.reading.pictures_encoded)
