"""Facts about the files of the picture cache: when they are written, how many, where not, and who sees them."""

import errno
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llava_cli import PrefixCache, private_files
from llava_cli.cache_files import CacheFiles
from llava_cli.errors import NotEnoughRoom
from llava_cli.pictures import Picture
from llava_cli.private_files import only_writer
from llava_cli.settings import cache_dir, data_dir
from tests.processes import LLAVA, ROOT, SCENE, files_of, llava
from tests.questions import ANSWER, QUESTION, ask, kept, opened, picture, plain, took
from tests.tiny_model import write_tiny_projector

# When it is written, and by whom.


def test_nothing_is_written_before_the_answer_is_there(tiny_pair):
    with opened(tiny_pair) as model:
        for _ in model.ask(picture(1), QUESTION):
            assert [] == kept()
        assert [] == kept()
    assert 3 == len(kept())


def test_an_answer_that_was_stopped_keeps_nobody_waiting_for_its_prefix(tiny_pair):
    with opened(tiny_pair) as model:
        for _ in model.ask(picture(1), QUESTION):
            model.stop()
    assert [".embeddings"] == [path.suffix for path in kept()]


def test_words_alone_keep_nobody_waiting_for_the_prefix_of_a_stopped_answer(tiny_pair):
    with opened(tiny_pair) as model:
        assert model.ask(None, QUESTION).text
        for _ in model.ask(picture(1), QUESTION):
            model.stop()
    assert [".embeddings"] == [path.suffix for path in kept()]


def test_of_many_pictures_beside_the_first_few_wait_to_be_written(tiny_pair):
    with opened(tiny_pair) as model:
        for number in range(2, 10):
            assert model.ask([picture(1), picture(number)], QUESTION).text
        assert 5 <= len(kept("*.embeddings"))
    assert 9 == len(kept("*.embeddings"))


def test_what_cannot_be_opened_just_now_stays(tiny_pair, monkeypatch):
    ask(tiny_pair)
    before = kept()
    assert before

    def refuse(*_arguments, **_options):
        raise OSError(errno.EMFILE, "too many open files")

    files = CacheFiles(cache_dir() / "pictures", data_dir() / "cache.key", 1 << 30)
    with monkeypatch.context() as patch:
        patch.setattr(private_files, "open_own", refuse)
        assert [] == files.entries()
    assert before == kept()


def test_without_cache_nothing_is_read_or_written(tiny_pair):
    ask(tiny_pair)
    before = [path.stat().st_mtime_ns for path in kept()]
    assert (0, 1) == took(ask(tiny_pair, cache=False))
    assert (0, 1) == took(ask(tiny_pair, cache_size=0))
    assert (0, 1) == plain(tiny_pair, keep=False)[1]
    assert before == [path.stat().st_mtime_ns for path in kept()]


def script(pair, *lines):
    """Run lines of Python in a process of its own; `pair` is known to them by that name."""
    code = "\n".join(("from tests.questions import *", f"pair = {tuple(map(str, pair))!r}", *lines))
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_script_that_closes_nothing_keeps_its_picture_too(tiny_pair):
    done = script(tiny_pair, "mine = plain(pair, close=False)")
    assert ("", 3) == (done.stderr, len(kept()))


def test_two_processes_at_once_leave_one_entry_and_are_both_right(tiny_pair):
    expected = llava("ask", SCENE, QUESTION, *ANSWER, "--no-cache", *files_of(tiny_pair)).stdout
    command = [*LLAVA, "ask", SCENE, QUESTION, *ANSWER, *files_of(tiny_pair)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
    answers = [(process.communicate(timeout=60)[0].decode(), process.returncode) for process in both]
    assert [(expected, 0)] * 2 == answers
    assert [".embeddings", ".opening", ".prefix"] == sorted(path.suffix for path in kept())


def test_who_finds_an_entry_being_written_does_nothing(tmp_path):
    files = CacheFiles(tmp_path / "a", tmp_path / "key", 10**6)
    path = files._path("prefix", {"a": 1})
    part = path.with_name(f".{path.name}.part")
    with only_writer(part) as first:
        first.write(b"half")
        files.write("prefix", {"a": 1}, b"other", {})
        assert files.read("prefix", {"a": 1}) is None
        assert 0 == files.clear()
        part.replace(path)
    assert b"half" == path.read_bytes()


@pytest.mark.parametrize(("before", "encoded"), [(".embeddings.part", 1), (".prefix.part", 0)])
def test_a_process_killed_while_writing_leaves_nothing_that_is_used(tiny_pair, before, encoded):
    killed = script(
        tiny_pair,
        "import os, signal",
        f"os.fsync = lambda _: [os.kill(os.getpid(), signal.SIGKILL) for _ in kept('.*{before}')]",
        "ask(pair)",
    )
    assert (-signal.SIGKILL, 1) == (killed.returncode, len(kept(f".*{before}")))
    assert (0, encoded) == took(ask(tiny_pair))
    assert [".embeddings", ".opening", ".prefix"] == sorted(path.suffix for path in kept())
    assert (47, 0) == took(ask(tiny_pair))


# Bounds.


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    files = CacheFiles(tmp_path / "a", tmp_path / "key", 10_000)
    for number in range(4):
        files.write("prefix", {"n": number}, bytes(2000), {})
        os.utime(files._path("prefix", {"n": number}), (number, number))
    assert files.read("prefix", {"n": 0}) is not None
    files.write("prefix", {"n": 4}, bytes(4000), {})
    assert [True, False, False, True, True] == [files.has("prefix", {"n": n}) for n in range(5)]
    assert sum(path.stat().st_size for path in (tmp_path / "a").iterdir()) <= 10_000


def test_a_tenth_of_the_free_disk_is_the_most(tmp_path, monkeypatch):
    files = CacheFiles(tmp_path / "a", tmp_path / "key", 10**9)
    whole = 100_000

    def usage(directory):
        mine = sum(path.stat().st_size for path in Path(directory).glob("*.prefix"))
        return shutil._ntuple_diskusage(whole, mine, whole - mine)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for number in range(40):
        files.write("prefix", {"n": number}, bytes(100), {})
        _, taken, free = usage(files.directory)
        assert 0 < taken <= free / 10
    assert taken > 0.9 * free / 10
    with pytest.raises(NotEnoughRoom, match="a tenth of the free disk"):
        files.write("prefix", {"n": 99}, bytes(10_000), {})


@pytest.mark.parametrize(("size", "fitting"), [(12_000, 2), (1000, 0)])
def test_a_cache_too_small_says_so_once_and_keeps_what_fits(tiny_pair, size, fitting):
    with opened(tiny_pair, cache_size=size) as model:
        said = model.notes
        assert all(model.ask(picture(number), QUESTION).text for number in (1, 2))
    assert ((), 1) == (said, len(model.notes))
    assert "do not fit into 0.0" in model.notes[0]
    assert model.notes[0].endswith("MB (its largest size, cache_size)")
    assert [".embeddings"] * fitting == [path.suffix for path in kept()]


# Faults of the place.


def test_everything_is_private_under_any_umask(tiny_pair, tmp_path):
    projector = write_tiny_projector(tmp_path / "old.gguf", projector_type=None)  # needs a repaired copy beside
    command = [*LLAVA, "ask", SCENE, QUESTION, *ANSWER, *files_of((tiny_pair[0], projector))]
    subprocess.run(command, check=True, capture_output=True, umask=0)
    home = Path(os.environ["HOME"])
    paths = [path for top in (".cache", ".local") for path in (home / top, *(home / top).rglob("*"))]
    assert {"cache.key", ".prefix", ".embeddings"} <= {path.suffix or path.name for path in paths} | {"cache.key"}
    assert {0o700} == {path.stat().st_mode & 0o777 for path in paths if path.is_dir()}
    assert {0o600} == {path.stat().st_mode & 0o777 for path in paths if path.is_file()}


def read_only(directory):
    directory.chmod(0o500)


def writable_by_all(directory):
    directory.chmod(0o777)


def writable_by_others(directory):
    directory.chmod(0o702)


def writable_by_the_group(directory):
    directory.chmod(0o770)


def in_a_place_writable_by_all(directory):
    directory.parent.chmod(0o777)


def somebody_elses(directory):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(directory, 12345, 12345)


def a_file(directory):
    directory.rmdir()
    directory.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (read_only, "it is read-only"),
        (writable_by_all, "others can write to it"),
        (writable_by_others, "others can write to it"),
        (writable_by_the_group, "others can write to it"),
        (in_a_place_writable_by_all, "others can write to it"),
        (somebody_elses, "it belongs to somebody else"),
        (a_file, "not a directory"),
    ],
)
def test_a_directory_that_is_not_ours_alone_is_not_used_and_that_is_said_once(tiny_pair, spoil, why):
    directory = cache_dir() / "pictures"
    directory.mkdir(parents=True, mode=0o700)
    spoil(directory)
    expected = ask(tiny_pair, cache=False).text
    with opened(tiny_pair) as model:
        said = model.notes
        assert expected == model.ask(picture(1), QUESTION).text
        assert model.ask(picture(2), QUESTION).text
    assert said == model.notes
    assert 1 == len(said)
    assert re.search(f"the picture cache is not used: .*{why}", said[0])
    directory.chmod(0o700)
    assert not directory.is_dir() or [] == kept()


def test_a_full_disk_costs_a_note_and_not_the_answer(tiny_pair):
    expected = llava("ask", SCENE, QUESTION, "-t", "0", "-n", "8", "--no-cache", *files_of(tiny_pair)).stdout
    command = [*LLAVA, "ask", SCENE, QUESTION, "-t", "0", "-n", "8", *files_of(tiny_pair)]

    def little_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=little_disk)
    assert (0, expected) == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("note: the picture is not kept for next time: file too large")
    assert [".embeddings"] == [path.suffix for path in kept()]


# What is there.


def test_the_list_is_by_picture_with_size_and_age(tiny_pair):
    for number, system in ((1, None), (1, "Be brief."), (2, None)):
        ask(tiny_pair, about=picture(number), system=system)
    for path in kept():
        os.utime(path, (time.time() - 7200,) * 2)
    ask(tiny_pair, about=picture(1))
    size = sum(path.stat().st_size for path in kept() if path.suffix != ".opening")
    lines = [line.split("\t") for line in llava("cache").stdout.splitlines()]
    assert ["noise 1.png", "noise 2.png"] == [name for name, _, _ in lines]
    assert size == sum(int(each) for _, each, _ in lines)
    assert [True, False] == [int(age) < 3600 for _, _, age in lines]
    listed = json.loads(llava("cache", "--json").stdout)
    assert [("noise 1.png", 2), ("noise 2.png", 1)] == [(one["name"], one["prefixes"]) for one in listed]
    assert picture(1).sha256 == listed[0]["sha256"]


def test_a_terminal_gets_a_table(tiny_pair):
    import pexpect

    ask(tiny_pair)
    shown = pexpect.run(shlex.join([*LLAVA, "cache"]), env={**os.environ, "TERM": "xterm"}).decode()
    assert re.search(r"picture +size +last used\s+noise 1\.png +\d+\.\d kB +just now", re.sub(r"\x1b\[\d*m", "", shown))


def test_a_name_cannot_command_the_terminal_or_break_a_line(tiny_pair):
    evil = Picture("a\tb\n\x1b[31mc", 40, 30, picture(1).rgb)
    ask(tiny_pair, about=evil)
    assert re.fullmatch(r"a b \[31mc\t\d+\t\d+\n", llava("cache").stdout)


def test_clearing_says_what_it_gave_back(tiny_pair):
    ask(tiny_pair)
    size = sum(path.stat().st_size for path in kept())
    assert (f"freed {size / 1000:.1f} kB\n", 0) == ((done := llava("cache", "clear")).stdout, done.returncode)
    assert [] == kept()
    assert ("", "note: no picture is kept yet\n") == ((done := llava("cache")).stdout, done.stderr)
    assert "freed 0 bytes\n" == llava("cache", "clear").stdout


def test_clearing_touches_only_what_the_cache_made(tiny_pair):
    ask(tiny_pair)
    mine = cache_dir() / "pictures" / "notes.txt"
    mine.write_text("mine")
    PrefixCache().clear()
    assert [mine] == kept()
    assert (data_dir() / "cache.key").exists()


def test_names_on_disk_tell_nothing_about_pictures(tiny_pair):
    ask(tiny_pair)
    sha256 = picture(1).sha256
    assert [False] * 3 == [sha256[:12] in path.name for path in kept()]
