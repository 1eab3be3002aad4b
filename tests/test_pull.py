"""Facts about `llava pull` as a process: killed, interrupted, crowded, out of disk; and what `llava ask` asks first."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from llava_cli.registry import user_file
from tests import hub as faults
from tests.hub import COMMIT, REPO, Hub
from tests.processes import SCENE
from tests.pull_processes import (
    MARK,
    PULL,
    cache,
    contents,
    environment,
    is_whole,
    launcher,
    parts,
    register,
    run,
    running,
)  # fmt: skip

READY = "tiny is ready: llava ask PICTURE QUESTION -m tiny\n"


@pytest.fixture
def hub(tiny_pair: tuple[Path, Path]) -> Iterator[Hub]:
    """Serve a tiny model that the user's own list knows as `tiny`."""
    register()
    with Hub({path.name: path.read_bytes() for path in tiny_pair}) as served:
        yield served


def slow(hub: Hub) -> None:
    """Let the model take about a second."""
    hub.chunk, hub.pause = 8192, 0.01


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def fetched(hub: Hub, least: int) -> Callable[[], bool]:
    """Return whether a running process has that much of the model."""
    return lambda: any(path.exists() and path.stat().st_size >= least for path in parts()) and len(hub.starts()) > 1


# What is said


def test_in_a_pipe_it_is_a_line_for_every_5_percent(hub: Hub) -> None:
    hub.chunk, hub.pause = 8192, 0.001
    done = run(hub, "pull", "tiny")
    first, *lines = done.stderr.splitlines()
    assert (0, READY) == (done.returncode, done.stdout)
    assert first == "tiny: fetching from me/tiny to ~/.cache/huggingface/hub"
    percents = [int(line.partition(" %  ")[0]) for line in lines]
    assert all(
        re.fullmatch(r" *\d+ %  [\d.]+ (bytes|kB) of 842\.8 kB( · [\d.]+ .B/s · \d+ s left)?", line) for line in lines
    )
    assert percents == sorted(set(percents))
    assert percents[-1] == 100
    assert all(percent % 5 == 0 for percent in percents)
    assert is_whole(hub)


def test_the_percents_are_of_what_has_to_come(hub: Hub) -> None:
    run(hub, "pull", "tiny")
    (cache() / "snapshots" / COMMIT / "mmproj.gguf").resolve().unlink()
    lines = run(hub, "pull", "tiny").stderr.splitlines()
    assert lines[-1].startswith("100 %  209.3 kB of 209.3 kB")


def test_quiet_says_nothing_but_the_answer(hub: Hub) -> None:
    done = run(hub, "pull", "tiny", "-q")
    assert (0, READY, "") == (done.returncode, done.stdout, done.stderr)


def test_what_is_here_is_not_fetched(hub: Hub) -> None:
    run(hub, "pull", "tiny")
    asked = len(hub.log)
    done = run(hub, "pull", "tiny", more={"HF_HUB_OFFLINE": "1"})
    assert (0, READY, "") == (done.returncode, done.stdout, done.stderr)
    assert len(hub.log) == asked


def test_the_bundled_model_needs_no_network(hub: Hub) -> None:
    done = run(hub, "pull", "shapes")
    assert (0, "shapes is part of llava: there is nothing to fetch\n") == (done.returncode, done.stdout)
    assert hub.log == []


@pytest.mark.parametrize(("variable", "below"), [("HF_HOME", "hub"), ("HF_HUB_CACHE", "")])
def test_the_cache_is_where_the_environment_says(hub: Hub, tmp_path: Path, variable: str, below: str) -> None:
    assert run(hub, "pull", "tiny", more={variable: str(tmp_path)}).returncode == 0
    assert (tmp_path / below / "models--me--tiny" / "refs" / "main").exists()
    assert not cache().exists()


def test_a_terminal_shows_two_bars_and_leaves_none(hub: Hub) -> None:
    hub.chunk, hub.pause = 16_384, 0.05
    child = pexpect.spawn(
        PULL[0], [*PULL[1:], "pull", "tiny"], env=environment(hub, TERM="xterm"), dimensions=(24, 100), timeout=30
    )
    child.expect("model +.*%.* kB of 633.5 kB +.*kB/s · [0-9]+ s left".encode())
    assert b"projector" in child.before + child.after
    child.expect(READY.strip())
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_projector_is_repaired_right_away(hub: Hub, tmp_path: Path) -> None:
    from tests.tiny_model import write_tiny_projector

    hub.files["mmproj.gguf"] = write_tiny_projector(tmp_path / "old.gguf", projector_type=None).read_bytes()
    done = run(hub, "pull", "tiny", "-q")
    assert done.returncode == 0
    assert len(list((Path(os.environ["HOME"]) / ".cache" / "llava" / "projectors").iterdir())) == 1


def test_two_files_that_do_not_fit_are_refused(hub: Hub, tmp_path: Path) -> None:
    from tests.tiny_model import write_tiny_projector

    hub.files["mmproj.gguf"] = write_tiny_projector(tmp_path / "other.gguf", out_width=96).read_bytes()
    done = run(hub, "pull", "tiny", "-q")
    assert (4, "") == (done.returncode, done.stdout)
    assert "its picture embeddings are 96 wide" in done.stderr
    assert "hint: use the projector (mmproj) that was published together with this model" in done.stderr


REFUSALS = {
    "unknown model": (4, ["tinny"]),
    "unknown quant": (4, ["tiny:Q9"]),
    "hf: without a file": (2, ["hf:me/tiny"]),
    "hf: without a projector": (2, ["hf:me/tiny:model.gguf"]),
    "hf: out of the cache": (2, ["hf:me/tiny:../../model.gguf", "--projector", "mmproj.gguf"]),
    "hf: a repository that is a path": (2, ["hf:../..:model.gguf", "--projector", "mmproj.gguf"]),
    "hf: unknown layout": (2, ["hf:me/tiny:model.gguf", "--projector", "mmproj.gguf", "--layout", "vicuna"]),
    "hf: a name that is taken": (2, ["hf:me/tiny:model.gguf", "--projector", "mmproj.gguf", "--name", "shapes"]),
    "a projector for a name": (2, ["tiny", "--projector", "mmproj.gguf"]),
    "no such file": (5, ["hf:me/tiny:modle.gguf", "--projector", "mmproj.gguf"]),
    "no such repository": (5, ["hf:me/tinny:model.gguf", "--projector", "mmproj.gguf"]),
}


@pytest.mark.parametrize(("code", "arguments"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_two_lines_and_its_exit_code(hub: Hub, code: int, arguments: list[str]) -> None:
    done = run(hub, "pull", "-q", *arguments)
    assert (code, "") == (done.returncode, done.stdout)
    first, second = done.stderr.splitlines()
    assert first.startswith("llava: ")
    assert second.startswith("hint: ")


def test_what_a_server_says_never_reaches_the_terminal(hub: Hub) -> None:
    hostile = {"X-Error-Message": "\x1b]0;owned\x07", "X-HF-Warning": "topic; \x1b[31mred"}
    hub.heads = [faults.status(403, hostile, b"\x1b[2J")]
    done = run(hub, "pull", "tiny")
    assert done.returncode == 5
    assert not {"\x1b", "\x07"} & set(done.stderr)
    assert "owned" not in done.stderr


# Any pair on the hub


def test_any_pair_on_the_hub_becomes_a_model_of_ones_own(hub: Hub) -> None:
    done = run(
        hub,
        "pull",
        "hf:me/tiny:model.gguf",
        "--projector",
        "mmproj.gguf",
        "--layout",
        "llama3",
        "--name",
        "toy",
    )
    assert (0, "toy is ready: llava ask PICTURE QUESTION -m toy\n") == (done.returncode, done.stdout)
    assert "toy is kept in ~/.config/llava/models.toml, in the layout llama3" in done.stderr
    first, toy = tomllib.loads(user_file().read_text())["model"]
    assert (first["id"], toy["id"], toy["prompt"], toy["hf_repo"]) == ("tiny", "toy", "llama3", REPO)
    assert (toy["context"], toy["image_tokens"]) == (2048, 16)
    sizes = {row["name"]: (row["size"], len(row["sha256"])) for row in (*toy["file"], toy["mmproj"])}
    assert sizes == {name: (len(body), 64) for name, body in hub.files.items()}
    assert run(hub, "show", "toy", "--path").returncode == 0


def test_pulling_it_again_keeps_one_entry(hub: Hub) -> None:
    for _ in range(2):
        assert run(hub, "pull", "hf:me/tiny:model.gguf", "--projector", "mmproj.gguf").returncode == 0
    assert [entry["id"] for entry in tomllib.loads(user_file().read_text())["model"]] == ["tiny", "model"]


def test_a_forgotten_projector_is_looked_for(hub: Hub) -> None:
    assert "hint: me/tiny has mmproj.gguf" in run(hub, "pull", "hf:me/tiny:model.gguf").stderr


# Ends


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 4 else []) for seed in range(50)]
)
def test_killed_at_any_moment_it_goes_on(hub: Hub, seed: int) -> None:
    """At most 8 MiB are fetched again (the tests' mark: 64 KiB), and nothing stays behind in the end."""
    slow(hub)
    moment = random.Random(seed).uniform(0, 1.0)
    with running(hub, "pull", "tiny") as process:
        if seed % 3:
            wait_until(lambda: hub.log)
        time.sleep(moment)
        process.kill()
        process.wait()
    had = {path.name: path.stat().st_size for path in parts()}
    before = len(hub.log)
    hub.pause = 0
    done = run(hub, "pull", "tiny", "-q")
    assert (0, READY, "") == (done.returncode, done.stdout, done.stderr)
    assert is_whole(hub)
    first = max((start for _, path, start in hub.log[before:] if path.startswith("/cdn/")), default=0)
    assert max(had.values(), default=0) - first <= MARK or not hub.log[before:]


def test_a_process_that_was_killed_holds_nobody_up(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.stall(200_000)]
    with running(hub, "pull", "tiny") as process:
        wait_until(fetched(hub, 100_000))
        process.kill()
    assert run(hub, "pull", "tiny", "-q").returncode == 0


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_keeps_what_has_come(hub: Hub, presses: int) -> None:
    slow(hub)
    with running(hub, "pull", "tiny") as process:
        wait_until(fetched(hub, 100_000))
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
        complaints = process.communicate(timeout=10)[1]
    assert (130, "stopped; what has come is kept: the same command goes on there") == (
        process.returncode, complaints.splitlines()[-1],
    )  # fmt: skip
    assert "Traceback" not in complaints
    assert [path.stat().st_size >= 100_000 for path in parts()] == [True]


def test_sigterm_ends_it_in_order(hub: Hub) -> None:
    slow(hub)
    with running(hub, "pull", "tiny") as process:
        wait_until(fetched(hub, 100_000))
        process.send_signal(signal.SIGTERM)
        complaints = process.communicate(timeout=10)[1]
    assert (143, True) == (process.returncode, "stopped; what has come is kept" in complaints)


def test_ctrl_c_in_a_terminal_leaves_it_sane(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.stall(200_000)]
    child = pexpect.spawn(PULL[0], [*PULL[1:], "pull", "tiny"], env=environment(hub, TERM="xterm"), timeout=30)
    child.expect("196.6 kB of|200.0 kB of")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert b"stopped; what has come is kept" in child.before
    assert child.before.rfind(b"\x1b[?25h") > child.before.rfind(b"\x1b[?25l")


def test_no_bar_fills_its_line(hub: Hub) -> None:
    """A terminal writes ^C behind it, and what is taken away afterwards is counted in lines."""
    hub.chunk, hub.pause = 16_384, 0.02
    child = pexpect.spawn(
        PULL[0], [*PULL[1:], "pull", "tiny"], env=environment(hub, TERM="xterm"), dimensions=(24, 90), timeout=30
    )
    shown = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", child.read().decode())
    bars = [line for line in re.split(r"[\r\n]+", shown) if "━" in line]
    assert bars
    assert max(map(len, bars)) <= 88


# Crowds


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_of_several_at_once_one_fetches(hub: Hub, count: int) -> None:

    def when_all_have_come(exchange: faults.Exchange, body: bytes, start: int) -> None:
        wait_until(lambda: sum(method == "HEAD" for method, _, _ in hub.log) == 2 * count)
        faults.whole(exchange, body, start)

    slow(hub)
    hub.bodies = [when_all_have_come]
    command = [*PULL, "pull", "tiny"]
    started = [
        subprocess.Popen(command, env=environment(hub), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    ended = [(process.communicate(timeout=120), process.returncode) for process in started]
    assert [(code, out) for (out, _), code in ended] == [(0, READY)] * count
    assert sorted(hub.starts()) == [0, 0]
    assert is_whole(hub)


def test_a_second_one_says_what_it_waits_for_and_goes_on_if_the_first_ends(hub: Hub) -> None:
    slow(hub)
    with running(hub, "pull", "tiny") as first:
        wait_until(fetched(hub, 100_000))
        hub.pause = 0.4
        with running(hub, "pull", "tiny") as second:
            assert second.stderr is not None
            lines = iter(second.stderr.readline, "")
            assert "model: another llava fetches it\n" in lines
            first.kill()
            hub.pause = 0
            assert (second.wait(30), is_whole(hub)) == (0, True)
    assert hub.starts()[-1] in range(MARK, 633_472, MARK)


# Disks


def test_a_disk_that_fills_up_is_said_to_be_full_and_it_goes_on_later(hub: Hub) -> None:
    full = launcher("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))")
    done = run(hub, "pull", "tiny", "-q", command=full)
    assert (6, "") == (done.returncode, done.stdout)
    assert re.match(r"llava: model\.gguf: .* does not take more \(file too large\)\nhint: make room there", done.stderr)
    assert run(hub, "pull", "tiny", "-q").returncode == 0
    assert is_whole(hub)
    assert hub.starts()[-1] == 300_000 // MARK * MARK


# root may write where the mode says no, unless it gives that up.
BOUND = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *PULL] if os.geteuid() == 0 else PULL


def test_a_cache_that_is_read_only_is_said_to_be(hub: Hub) -> None:
    cache().parent.mkdir(parents=True)
    cache().parent.chmod(0o555)
    done = run(hub, "pull", "tiny", "-q", command=BOUND)
    assert (5, "") == (done.returncode, done.stdout)
    assert "cannot be written (permission denied)\nhint: set HF_HOME" in done.stderr


def test_a_cache_that_is_read_only_is_enough_if_all_is_there(hub: Hub) -> None:
    run(hub, "pull", "tiny")
    asked = len(hub.log)
    for path in (cache(), *cache().rglob("*")):
        if path.is_dir():
            path.chmod(0o555)
    done = run(hub, "pull", "tiny", "-q", command=BOUND)
    assert (0, READY, asked) == (done.returncode, done.stdout, len(hub.log))


def test_without_links_it_is_the_same(hub: Hub) -> None:
    assert run(hub, "pull", "tiny", "-q", more={"HF_HUB_DISABLE_SYMLINKS": "1"}).returncode == 0
    assert [name.partition("/")[0] for name in contents()] == ["refs", "snapshots", "snapshots"]
    assert run(hub, "show", "tiny", "--path").returncode == 0


# Afterwards


def test_once_it_is_here_nothing_touches_the_network(hub: Hub) -> None:
    run(hub, "pull", "tiny")
    watch = (
        "import sys, atexit\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event.startswith('socket.') else None)\n"
        "atexit.register(lambda: print('sockets:', seen, file=sys.stderr))\n"
        f"{''.join(PULL[2].rpartition('main()')[:1])}"
    )
    asked = len(hub.log)
    for arguments in (
        ["ask", SCENE, "What?", "-m", "tiny", "-n", "2"],
        ["pull", "tiny"],
        ["cache"],
        ["--help"],
        ["--version"],
    ):
        done = run(hub, *arguments, command=[sys.executable, "-c", f"{watch}main()"])
        assert (0, "sockets: []") == (done.returncode, done.stderr.splitlines()[-1]), arguments
    assert len(hub.log) == asked


# The question of `ask`


def test_ask_fetches_a_model_without_asking_if_told_to(hub: Hub) -> None:
    done = run(hub, "ask", SCENE, "What?", "-m", "tiny", "-n", "2", "--yes")
    assert (0, True) == (done.returncode, is_whole(hub))
    assert done.stdout.count("\n") >= 1


def test_ask_without_a_terminal_names_both_commands(hub: Hub) -> None:
    done = run(hub, "ask", SCENE, "What?", "-m", "tiny")
    assert (4, "") == (done.returncode, done.stdout)
    assert "llava pull tiny" in done.stderr
    assert "-m shapes" in done.stderr
    assert hub.log == []


@pytest.mark.parametrize(("typed", "code"), [("", 0), ("y", 0), ("n", 4)])
def test_ask_in_a_terminal_asks_once(hub: Hub, typed: str, code: int) -> None:
    child = pexpect.spawn(
        PULL[0], [*PULL[1:], "ask", SCENE, "What?", "-m", "tiny", "-n", "2"],
        env=environment(hub, TERM="xterm"), timeout=30, dimensions=(24, 200),
    )  # fmt: skip
    child.expect_exact("tiny is not on this computer. Download it to ~/.cache/huggingface/hub? [Y/n] ")
    child.sendline(typed)
    child.expect(pexpect.EOF)
    child.close()
    assert (code, code == 0) == (child.exitstatus, bool(hub.log))
