"""Facts about `llava run`: one line for each picture and question, whatever happens on the way."""

import csv
import fcntl
import json
import os
import random
import resource
import shlex
import signal
import subprocess
import time

import pytest

from llava_cli import load, results, sources
from llava_cli.history import History
from llava_cli.settings import LoadOptions
from tests.photos import GREEDY, QUESTION, answers, broken, drawn, fill, here, lines
from tests.processes import LLAVA, llava
from tests.questions import kept
from tests.terminal import Terminal
from training.evaluate import FIRST_SEED, picture_bytes, questions_for
from training.scenes import make_scene

COUNT, BAD = 40, 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Draw forty pictures, once; three of them are broken."""
    return fill(tmp_path_factory.mktemp("photos"), COUNT, bad=BAD)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    """Ask about all of them in one go, once: the file, and what `here` returns."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        # What `_own_home` does for a test, it does too late for this.
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("LLAVA_THREADS", "1")
        return out, here(photos, QUESTION, "-o", out)


@pytest.fixture
def few(tmp_path):
    """Draw three pictures, all good."""
    return fill(tmp_path / "few", 3)


@pytest.fixture
def again(whole, tmp_path):
    """Copy the file of the whole run, to go on with."""
    out = tmp_path / "again.jsonl"
    out.write_bytes(whole[0].read_bytes())
    return out


# What comes out.


def test_every_picture_has_its_line_in_the_order_people_expect(photos, whole):
    """Names are counted, not spelled; a folder stands where its name does, with all that is in it."""
    names = [f"more/deep/p{n}.png" for n in range(2, COUNT, 3)]
    names += [f"more/p{n}.png" for n in range(1, COUNT, 3)] + [f"p{n}.png" for n in range(0, COUNT, 3)]
    assert names == [line["image"].removeprefix(f"{photos}/") for line in lines(whole[0])]


def test_a_bad_picture_is_a_line_with_an_error_and_the_run_ends_with_nine(whole):
    out, (code, stdout, stderr) = whole
    failed = [line for line in lines(out) if "error" in line]
    assert sorted(f"p{number}.png" for number in broken(COUNT, BAD)) == sorted(
        line["error"]["what"].rpartition("/")[2] for line in failed
    )
    assert [{"exit_code": 3}] * BAD == [
        {name: value for name, value in line["error"].items() if name not in ("what", "why")} for line in failed
    ]
    assert COUNT - BAD == sum(bool(line.get("answer")) for line in lines(out))
    first, second = stderr.splitlines()
    assert (9, "") == (code, stdout)
    assert (first, second[:6]) == ("llava: run: 3 of 40 have no answer", "hint: ")


def test_a_line_tells_what_its_answer_was_made_with(whole):
    line = next(line for line in lines(whole[0]) if "answer" in line)
    assert ["image", "question", "answer", "llava"] == list(line)
    facts = line["llava"]
    assert ["key", "picture", "model", "system", "parameters", "finish_reason", "usage"] == list(facts)
    assert ("shapes", "stop", 0.0) == (facts["model"], facts["finish_reason"], facts["parameters"]["temperature"])


def test_answers_are_those_of_a_model_that_is_asked_nothing_else(whole):
    told = answers(lines(whole[0]))
    asked = [number for number in range(0, COUNT, 9) if number not in broken(COUNT, BAD)]
    for number in asked:
        with load("shapes", options=LoadOptions(threads=1), cache=False) as model:
            assert model.ask(drawn(number), QUESTION, temperature=0).text == told[f"p{number}.png", QUESTION]
    assert len(asked) >= 3


def test_several_questions_about_a_picture_look_at_it_once_and_get_the_answers_of_single_asks(few, tmp_path):
    questions = ["What color is the background?", "How many shapes are there?", QUESTION]
    (tmp_path / "questions.txt").write_text("\n".join([*questions, "", questions[0]]))
    options = ("-m", "shapes", "-t", "1", "--seed", "3", "--plain", "--no-cache")
    code, _, stderr = here(few, "--ask", tmp_path / "questions.txt", "-o", tmp_path / "out.jsonl", options=options)
    read = lines(tmp_path / "out.jsonl")
    assert (0, 9) == (code, len(read)), stderr
    assert questions * 3 == [line["question"] for line in read]
    for line in read:
        with load("shapes", options=LoadOptions(threads=1), cache=False) as model:
            assert line["answer"] == model.ask(line["image"], line["question"], temperature=1, seed=3).text


def test_without_a_seed_each_answer_has_one_of_its_own_that_is_the_same_in_every_run(few, tmp_path):
    options = ("-m", "shapes", "-t", "1.5", "-q", "-n", "20")
    for name in ("a.jsonl", "b.jsonl"):
        assert 0 == here(few, "Who are you?", "-o", tmp_path / name, options=options)[0]
    first, second = lines(tmp_path / "a.jsonl"), lines(tmp_path / "b.jsonl")
    assert first == second
    seeds = [line["llava"]["parameters"]["seed"] for line in first]
    assert 3 == len(set(seeds))
    alone = llava("ask", first[1]["image"], "Who are you?", *options, "--seed", seeds[1])
    assert alone.stdout.strip() == first[1]["answer"].strip()


def test_lines_go_to_stdout_where_no_file_is_named(few):
    code, stdout, stderr = here(few, QUESTION)
    assert (0, "", 3) == (code, stderr, sum("answer" in json.loads(line) for line in stdout.splitlines()))


def test_a_reader_that_leaves_ends_the_run(photos):
    command = shlex.join([*LLAVA, "run", str(photos), "Anything?", *GREEDY])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False, timeout=120
    )
    assert (141, 1, b"") == (done.returncode, done.stdout.count(b"\n"), done.stderr)


def test_the_log_has_no_runs_and_the_cache_no_prefixes_of_them(few, tmp_path):
    """One prefix of a large model takes as much disk as forty pictures; a folder would push out all that is there."""
    here(few, QUESTION, "-o", tmp_path / "out.jsonl")
    assert ([], 3, 0) == (History().turns(1), len(kept("*.embeddings")), len(kept("*.prefix")))


# Going on.


def test_a_second_run_asks_nothing_and_changes_nothing(photos, again):
    before = again.read_bytes()
    code, _, stderr = here(photos, QUESTION, "-o", again, options=("-m", "shapes", "-t", "0"))
    assert (9, before) == (code, again.read_bytes())
    assert "0 new answers, 37 were there already, 3 failed" in stderr


def test_other_questions_and_parameters_are_asked_and_stand_behind(few, tmp_path):
    out = tmp_path / "out.jsonl"
    here(few, "Is there a star?", "-o", out)
    here(few, "Is there a ring?", "-o", out)
    here(few, "Is there a star?", "-o", out, "-s", "Answer briefly.")
    here(few, "Is there a star?", "-o", out)
    asked = [(line["question"], line["llava"]["system"]) for line in lines(out)]
    assert (
        asked
        == [("Is there a star?", None)] * 3
        + [("Is there a ring?", None)] * 3
        + [("Is there a star?", "Answer briefly.")] * 3
    )


def test_a_picture_under_another_name_is_known_and_another_one_under_its_name_is_not(few, tmp_path):
    out = tmp_path / "out.jsonl"
    here(few, "Is there a star?", "-o", out)
    (few / "p0.png").rename(few / "p9.png")
    (few / "more" / "p1.png").write_bytes(drawn(77))
    options = ("-m", "shapes", "-t", "0")
    assert "1 new answer, 2 were there already" in here(few, "Is there a star?", "-o", out, options=options)[2]
    assert ["p2.png", "p1.png", "p0.png", "p1.png"] == [line["image"].rpartition("/")[2] for line in lines(out)]


def test_two_names_of_one_picture_are_two_lines_and_stay_two(few, tmp_path):
    out = tmp_path / "out.jsonl"
    (few / "copy.png").write_bytes((few / "p0.png").read_bytes())
    for _ in range(2):
        here(few, "Is there a star?", "-o", out)
        assert ["copy.png", "p0.png", "p1.png", "p2.png"] == sorted(
            line["image"].rpartition("/")[2] for line in lines(out)
        )


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_a_line_that_was_torn_is_taken_off_and_asked_again(few, tmp_path, form):
    out = tmp_path / f"out.{form}"
    here(few, QUESTION, "-o", out)
    data = out.read_bytes()
    for cut in (10, len(data) // 2, len(data) - 1):
        out.write_bytes(data[:cut])
        assert 0 == here(few, QUESTION, "-o", out)[0]
        assert _untimed(out, form) == _untimed(data, form)


def _untimed(source, form):
    text = (source if isinstance(source, bytes) else source.read_bytes()).decode()
    if form == "jsonl":
        read = [json.loads(line) for line in text.splitlines()]
        return [{**line, "llava": {**line["llava"], "seconds": 0}} for line in read]
    rows = csv.DictReader(text.splitlines(), delimiter="," if form == "csv" else "\t")
    return [{**row, "llava_seconds": 0} for row in rows]


def test_a_picture_that_was_mended_takes_the_place_of_its_error(photos, whole, again):
    number = min(broken(COUNT, BAD))
    (path,) = photos.rglob(f"p{number}.png")
    bad = path.read_bytes()
    path.write_bytes(drawn(number))
    try:
        assert 9 == here(photos, QUESTION, "-o", again)[0]
    finally:
        path.write_bytes(bad)
    before, after = lines(whole[0]), lines(again)
    changed = [at for at in range(COUNT) if before[at] != after[at]]
    assert [(str(path), True)] == [(after[at]["image"], "answer" in after[at]) for at in changed]
    assert COUNT == len(after)


def test_shards_are_disjoint_and_together_the_whole(photos, whole, tmp_path):
    """Put together, one more run has nothing to ask and puts them in order."""
    parts = [tmp_path / f"{number}.jsonl" for number in (1, 2, 3)]
    for number, part in enumerate(parts, 1):
        assert here(photos, QUESTION, "-o", part, "--shard", f"{number}/3")[0] in (0, 9)
    together = tmp_path / "together.jsonl"
    together.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert all(lines(part) for part in parts)
    assert lines(whole[0]) != lines(together)
    assert COUNT == len(lines(together))
    here(photos, QUESTION, "-o", together, options=("-m", "shapes", "-t", "0", "-q"))
    assert lines(whole[0]) == lines(together)


def test_tables_put_together_have_their_header_once(few, tmp_path):
    out = tmp_path / "out.csv"
    here(few, QUESTION, "-o", out)
    data = out.read_bytes()
    header, *rows = data.splitlines(keepends=True)
    out.write_bytes(header + rows[2] + header + rows[0] + rows[1])
    assert (0, data) == (here(few, QUESTION, "-o", out)[0], out.read_bytes())


def test_limit_asks_so_many_and_the_next_run_the_rest(few, tmp_path):
    out = tmp_path / "out.jsonl"
    assert [(0, 2), (0, 3)] == [(here(few, QUESTION, "-o", out, "--limit", 2)[0], len(lines(out))) for _ in range(2)]


def test_fail_fast_ends_with_the_first_failure(photos, whole, tmp_path):
    first = next(at for at, line in enumerate(lines(whole[0])) if "error" in line)
    assert 9 == here(photos, QUESTION, "-o", tmp_path / "out.jsonl", "--fail-fast")[0]
    assert lines(whole[0])[: first + 1] == lines(tmp_path / "out.jsonl")


# Endings.


def killed_until_complete(photos, out, kills, rng, count):
    """Kill runs at moments between the start and the end of the work, then let one end; return its exit code."""
    command = [*LLAVA, "run", str(photos), QUESTION, "-o", str(out), *GREEDY]
    for _ in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wanted = min(_whole_lines(out) + rng.randrange(2 * count // kills), count - 1)
        while process.poll() is None and _whole_lines(out) < wanted:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        for line in out.read_text().splitlines()[:-1] if out.exists() else []:
            json.loads(line)
    return llava(*command[len(LLAVA) :]).returncode


def _whole_lines(out):
    return out.read_bytes().count(b"\n") if out.exists() else 0


def test_killed_four_times_and_gone_on_with_a_run_is_like_one_that_never_was(photos, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    assert 9 == killed_until_complete(photos, out, 4, random.Random(4), COUNT)
    assert lines(whole[0]) == lines(out)


@pytest.mark.slow
def test_killed_thirty_times_among_three_hundred_pictures(tmp_path):
    photos = fill(tmp_path / "photos", 300, bad=10)
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert 9 == here(photos, QUESTION, "-o", whole)[0]
    assert 9 == killed_until_complete(photos, out, 30, random.Random(30), 300)
    assert (300, 10) == (len(lines(out)), sum("error" in line for line in lines(out)))
    assert lines(whole) == lines(out)


@pytest.mark.slow
def test_a_run_over_an_evaluation_set_is_as_right_as_single_asks(tmp_path):
    """Questions with their truths go in as rows; whoever reads the output has both side by side."""
    scenes = [make_scene(FIRST_SEED + 21_000 + number) for number in range(60)]
    rows = []
    for number, scene in enumerate(scenes):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes(scene))
        rows += [{"image": f"{number}.png", "question": q.text, "truth": q.answer} for q in questions_for(scene)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert 0 == here(tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl")[0]
    told = lines(tmp_path / "out.jsonl")
    with load("shapes", options=LoadOptions(threads=1), cache=False) as model:
        single = [model.ask(tmp_path / row["image"], row["question"], temperature=0).text for row in rows]
    right = sum(line["answer"] == line["truth"] for line in told)
    assert right == sum(answer == row["truth"] for answer, row in zip(single, rows, strict=True))
    assert (300, single) == (len(rows), [line["answer"] for line in told])
    assert right >= 285


def test_ctrl_c_leaves_whole_lines_and_says_how_to_go_on(photos, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [*LLAVA, "run", str(photos), QUESTION, "-o", str(out), "-m", "shapes", "-t", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while _whole_lines(out) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    count = len(lines(out))
    assert (130, "stopped; the same command goes on from here") == (process.returncode, stderr.splitlines()[-1])
    assert lines(whole[0])[:count] == lines(out)
    assert 5 <= count < COUNT


def test_a_stop_between_two_answers_lets_no_other_one_begin(few, tmp_path, monkeypatch):
    """It comes while the second picture, whose file is known, is being opened."""
    real, asked, out = sources.open_source, [], tmp_path / "out.jsonl"
    assert 0 == here(few, QUESTION, "-o", out)[0]

    def opened(source, **how):
        asked.append(source)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(source, **how)

    monkeypatch.setattr(sources, "open_source", opened)
    assert (130, 3 + 1) == (here(few, "Is there a heart?", "-o", out)[0], len(lines(out)))


def test_a_terminal_shows_how_far_it_is_and_how_long_it_takes(photos, tmp_path):
    """The bar is gone when the run ends, and Ctrl-C ends it."""
    with Terminal("run", photos, QUESTION, "-o", tmp_path / "out.jsonl", "-m", "shapes", "-t", "0") as terminal:
        terminal.wait(r"\d+ of 40 +\d.* left")
        terminal.send("\x03")
        terminal.wait(r"\d+ new answers?, .*left\s+stopped; the same command goes on from here\s*$")
        assert 130 == terminal.end()


def test_a_full_disk_is_exit_six_and_leaves_whole_lines(photos, whole, tmp_path):
    out = tmp_path / "out.jsonl"
    command = [*LLAVA, "run", str(photos), QUESTION, "-o", str(out), *GREEDY, "--no-cache"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    count = len(lines(out))
    assert (6, "hint: make room") == (done.returncode, done.stderr.splitlines()[1][:15])
    assert (0 < count, lines(whole[0])[:count]) == (True, lines(out))


def test_a_run_that_is_refused_leaves_the_empty_file_of_the_other(few, tmp_path, monkeypatch):
    """The other one made it between our looking for it and opening it."""
    out, real = tmp_path / "out.jsonl", os.open

    def open_late(path, flags, *mode, **how):
        if path == out:
            other.append(real(out, os.O_RDWR | os.O_CREAT, 0o600))
            fcntl.flock(other[0], fcntl.LOCK_EX)
        return real(path, flags, *mode, **how)

    other = []
    monkeypatch.setattr(results, "_PATIENCE", 0.0)
    monkeypatch.setattr(os, "open", open_late)
    assert (2, True) == (here(few, QUESTION, "-o", out)[0], out.exists())
    os.close(other[0])


def test_two_runs_never_write_to_one_file(few, tmp_path):
    out = tmp_path / "out.jsonl"
    with out.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, stderr = here(few, QUESTION, "-o", out)
    assert (2, f"llava: {out}: another run is writing to it", b"") == (code, stderr.splitlines()[0], out.read_bytes())


FOREIGN = {
    "text": ("notes.jsonl", b"dear diary\n"),
    "text without an end": ("notes.jsonl", b"dear diary"),
    "other rows": ("rows.jsonl", b'{"image": "a.png", "question": "What?"}\n'),
    "one row without an end": ("rows.jsonl", b'{"image": "a.png"}'),
    "pretty JSON": ("rows.jsonl", b'{\n  "image": "a.png"\n}\n'),
    "another table": ("table.csv", b"name,price\nx,1\n"),
    "a picture": ("p.csv", b"\x89PNG\r\n\x1a\n"),
}


@pytest.mark.parametrize(("name", "data"), FOREIGN.values(), ids=FOREIGN)
def test_a_file_that_no_run_has_written_is_left_as_it_is(few, tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    code, stdout, stderr = here(few, QUESTION, "-o", tmp_path / name)
    assert (2, "", data) == (code, stdout, (tmp_path / name).read_bytes())
    assert "nothing is overwritten" in stderr


REFUSALS = {
    "nothing": [],
    "questions where one is meant": ["few", "two.txt"],
    "an empty question": ["few", " "],
    "no picture in it": ["empty", "What?"],
    "a pattern that nothing fits": ["few/*.tiff", "What?"],
    "a list and no stdin for it": ["few", "-0", "What?"],
    "stdin twice": ["-", "--ask", "-"],
    "a question and questions": ["few", "What is it?", "--ask", "two.txt"],
    "no such questions": ["few", "--ask", "missing.txt"],
    "no questions": ["few", "--ask", "empty.txt"],
    "no such format": ["few", "What?", "-o", "out.xml"],
    "no such folder": ["few", "What?", "-o", "missing/out.jsonl"],
    "a folder as output": ["few", "What?", "-o", "few", "--format", "csv"],
    "a shard of none": ["few", "What?", "--shard", "0/3"],
    "a shard beyond": ["few", "What?", "--shard", "4/3"],
    "no ending": ["few", "What?", "--sidecar", "txt"],
    "a schema and choices": ["few", "What?", "--schema", "int", "--choices", "a,b"],
    "no such part": ["few", "What?", "--crop", "1,2"],
    "no such template": ["few", "--template", "missing"],
    "two answers for one text": ["few", "--ask", "two.txt", "--sidecar", ".txt"],
    "rows without pictures": ["rows.jsonl"],
    "rows that are none": ["broken.jsonl"],
    "rows with an answer": ["answered.csv"],
    "a question nobody needs": ["asked.jsonl", "What?"],
    "one name for two fields": ["few", "What?", "--image-field", "question"],
    "a name that the run has": ["few", "What?", "--answer-field", "llava"],
    "two columns of one name": ["twice.csv"],
    "a name no table can hold": ["half.jsonl", "What?", "-o", "out.csv"],
    "a text with too long a name": ["few", "What?", "--sidecar", f".{'x' * 254}"],
}


@pytest.mark.parametrize("arguments", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_two_lines_and_nothing_is_asked(few, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "two.txt").write_text("What?\nWhy?\n")
    (tmp_path / "twice.csv").write_text("image,note,note\nfew/p0.png,a,b\n")
    (tmp_path / "half.jsonl").write_text('{"image": "few/p0.png", "\\ud800": 1}\n')
    (tmp_path / "rows.jsonl").write_text('{"question": "What?"}\n')
    (tmp_path / "broken.jsonl").write_text('{"image": "few/p0.png"}\n[1]\n')
    (tmp_path / "answered.csv").write_text("image,answer\nfew/p0.png,yes\n")
    (tmp_path / "asked.jsonl").write_text('{"image": "few/p0.png", "question": "Why?"}\n')
    code, stdout, stderr = here(*arguments, options=("-m", "shapes", "-q"))
    assert (2, "") == (code, stdout), stderr
    first, second = stderr.splitlines()
    assert (first[:7], second[:6]) == ("llava: ", "hint: ")


def test_a_folder_that_is_not_there_is_no_picture_that_failed(few, tmp_path):
    code, _, stderr = here(f"{few}s/", QUESTION, "-o", tmp_path / "out.jsonl")
    assert (3, 2, False) == (code, len(stderr.splitlines()), (tmp_path / "out.jsonl").exists())


# What goes in and out.


def test_answers_have_the_shape_that_a_schema_gives_them(few, tmp_path):
    for _ in range(2):
        assert 0 == here(few, "How many shapes are there?", "--schema", "int", "-o", tmp_path / "out.jsonl")[0]
        read = lines(tmp_path / "out.jsonl")
        assert [(int(line["answer"]), list(line)[2:]) for line in read] == [
            (line["parsed"], ["answer", "parsed", "llava"]) for line in read
        ]
    code, _, stderr = here(few, QUESTION, "--schema", "a, b, c", "-n", "2", "-o", tmp_path / "out.jsonl")
    assert (9, [8] * 3) == (code, [line["error"]["exit_code"] for line in lines(tmp_path / "out.jsonl")[3:]]), stderr


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_choices_come_with_their_probabilities(few, tmp_path, form):
    out = tmp_path / f"out.{form}"
    options = ("-m", "shapes", "-q", "--choices", "yes,no")
    for _ in range(2):
        assert 0 == here(few, "Is there a heart?", "-o", out, options=options)[0]
    with out.open(newline="") as file:
        rows = lines(out) if form == "jsonl" else list(csv.DictReader(file))
    for row in rows:
        choices = row["choices"] if form == "jsonl" else json.loads(row["choices"])
        assert ["yes", "no"] == [choice["text"] for choice in choices]
        assert row["answer"] == max(choices, key=lambda choice: choice["probability"])["text"]
    assert 3 == len(rows)


def test_a_template_says_what_is_asked_and_a_crop_what_is_seen(few, tmp_path):
    from llava_cli import templates

    templates.save("background", templates.Template("What color is the background?", temperature=0.0))
    options = ("-m", "shapes", "-q", "--template", "background")
    for crop in ((), ("--crop", "0%,0%,5%,5%"), ("--crop", "0,0,9000,9000")):
        assert (9 if "9000" in str(crop) else 0) == here(few, "-o", tmp_path / "out.jsonl", *crop, options=options)[0]
    read = lines(tmp_path / "out.jsonl")
    assert (9, {"What color is the background?"}) == (len(read), {line["question"] for line in read})
    assert 6 == len({line["llava"]["picture"]["sha256"] for line in read[:6]})
    assert all("reaches beyond" in line["error"]["why"] for line in read[6:])


def test_names_come_through_stdin_with_lines_or_zero_bytes_between(few, tmp_path):
    names = sorted(map(str, few.rglob("*.png")), reverse=True)
    for end, flag in (("\n", ()), ("\0", ("-0",))):
        code, stdout, _ = here(*flag, "-", QUESTION, stdin="".join(f"{name}{end}" for name in names).encode())
        assert (0, names) == (code, [json.loads(line)["image"] for line in stdout.splitlines()])


def test_rows_come_out_with_answers_and_all_else_they_have(few, tmp_path):
    """Their pictures are named from where their file is, wherever llava runs."""
    rows = [
        {"id": 7, "image": "few/p0.png", "question": "Is there a heart?", "tags": ["a", "ü"]},
        {"id": 8, "image": "few/missing.png", "question": "Is there a heart?", "tags": None},
        {"id": 9, "image": "few/p0.png", "question": "Is there a heart?", "tags": []},
        {"id": 10, "image": "few/more/p1.png"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for _ in range(2):
        assert 9 == here(tmp_path / "rows.jsonl", "-o", tmp_path / "out.jsonl")[0]
        read = lines(tmp_path / "out.jsonl")
        asked = [{name: line[name] for name in line if name not in ("answer", "error", "llava")} for line in read]
        assert [*rows[:3], {**rows[3], "question": QUESTION}] == asked
        assert [True, False, True, True] == ["answer" in line for line in read]


def test_a_table_in_is_a_table_out(few, tmp_path):
    (tmp_path / "in.csv").write_text('\ufeffn,file,ask,note\n1,few/p0.png,Is there a heart?,"one, ""two""\nthree"\n')
    fields = ("--image-field", "file", "--question-field", "ask", "--answer-field", "told")
    assert 0 == here(tmp_path / "in.csv", *fields, "-o", tmp_path / "out.csv")[0]
    with (tmp_path / "out.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert ("1", 'one, "two"\nthree') == (row["n"], row["note"])
    assert row["told"] in ("yes", "no")


def test_texts_stand_beside_their_pictures_and_never_take_the_place_of_others(few, tmp_path):
    (few / "p0.txt").write_text("mine\n")
    assert (0, "", "") == here(few, QUESTION, "--sidecar", ".txt")
    texts = {path.name: path.read_text() for path in few.rglob("*.txt")}
    told = answers([json.loads(line) for line in here(few, QUESTION)[1].splitlines()])
    assert {
        "p0.txt": "mine\n",
        "p1.txt": f"{told['p1.png', QUESTION]}\n",
        "p2.txt": f"{told['p2.png', QUESTION]}\n",
    } == texts
    code, _, stderr = here(few, QUESTION, "--sidecar", ".txt", "-o", tmp_path / "out.jsonl", options=GREEDY[:-1])
    assert (0, 3, "mine\n") == (code, len(lines(tmp_path / "out.jsonl")), (few / "p0.txt").read_text())
    assert "left as they are: 1" in stderr
    assert [] == [path.name for path in few.rglob(".*")]


def test_a_picture_whose_text_is_there_is_not_opened(few):
    (few / "p0.png").write_bytes(b"broken")
    (few / "p0.txt").write_text("mine\n")
    assert (0, "mine\n") == (here(few, QUESTION, "--sidecar", ".txt")[0], (few / "p0.txt").read_text())


def test_a_text_may_have_the_longest_name_there_is(tmp_path):
    name = "n" * 251
    (tmp_path / f"{name}.png").write_bytes(drawn(1))
    assert 0 == here(tmp_path, "Is there a heart?", "--sidecar", ".txt")[0]
    assert {f"{name}.png", f"{name}.txt"} == {path.name for path in tmp_path.iterdir()}


def test_what_a_terminal_would_obey_is_escaped_and_comes_back(tmp_path):
    name = "p\x1b]0;x\x07\u202e\x9b\udcff.png"
    (tmp_path / name).write_bytes(drawn(1))
    code, stdout, _ = here(tmp_path, "Is there a heart?")
    assert (0, True) == (code, stdout.rstrip("\n").isprintable())
    assert f"{tmp_path}/{name}" == json.loads(stdout)["image"]
