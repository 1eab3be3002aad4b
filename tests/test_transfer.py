"""Facts about fetching over lines and from servers that fail: all against a hub of our own, over real connections."""

from __future__ import annotations

import email.utils
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from llava_cli import hub_cache, partial_file
from llava_cli.errors import DownloadFailed, LlavaError, NotEnoughRoom
from llava_cli.hub import Limits
from llava_cli.pull import Progress, Pulled, pull
from llava_cli.registry import FileSpec, ModelSpec
from tests import hub as faults
from tests.hub import COMMIT, REPO, Hub
from tests.tiny_model import write_tiny_pair

MARK = 65_536
LIMITS = Limits(
    connect=5, silence=0.3, slow_bytes=4096, first_tries=3, tries=4, fruit=1024,
    first_wait=0.01, longest_wait=0.02, longest_pause=7, poll=0.02,
)  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_pair: tuple[Path, Path]) -> Iterator[Hub]:
    """Serve a tiny model, and make huggingface_hub look there, with an empty cache."""
    with Hub({path.name: path.read_bytes() for path in tiny_pair}) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(partial_file, "MARK", MARK)
        close_session()
        yield served
        close_session()


def spec(sha256: str | None) -> ModelSpec:
    """Return the spec of the tiny model, with the sha256 that the registry knows of its model file."""
    return ModelSpec(
        "tiny", "for tests", "llava_v1", quant="f32", quants=("f32",),
        model=FileSpec(REPO, "model.gguf", sha256=sha256),
        projector=FileSpec(REPO, "mmproj.gguf"),
    )  # fmt: skip


def pulled(
    *,
    sha256: str | None = None,
    trust: bool = False,
    seen: list[Progress] | None = None,
    notes: list[str] | None = None,
) -> Pulled:
    return pull(
        spec(sha256),
        on_progress=(seen if seen is not None else []).append,
        on_note=(notes if notes is not None else []).append,
        trust=trust,
        limits=LIMITS,
    )


def failure(*, sha256: str | None = None) -> LlavaError:
    with pytest.raises(LlavaError) as caught:
        pulled(sha256=sha256)
    return caught.value


def in_cache() -> list[str]:
    """Return everything in the cache, relative to it."""
    root = hub_cache.cache_root()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def expected_cache(hub: Hub) -> list[str]:
    blobs = [f"blobs/{hashlib.sha256(body).hexdigest()}" for body in hub.files.values()]
    snapshots = [f"snapshots/{COMMIT}/{name}" for name in hub.files]
    return sorted(f"models--me--tiny/{path}" for path in [*blobs, *snapshots, "refs/main"])


def whole(hub: Hub) -> bool:
    """Tell whether both files are here to the bit, and nothing else."""
    snapshot = hub_cache.cache_root() / "models--me--tiny" / "snapshots" / COMMIT
    same = [(snapshot / name).read_bytes() == body for name, body in hub.files.items()]
    return all(same) and in_cache() == expected_cache(hub)


# All is well


def test_both_files_come_into_the_layout_of_the_hugging_face_cache(hub: Hub) -> None:
    assert pulled().fetched
    assert whole(hub)
    snapshot = hub_cache.cache_root() / "models--me--tiny" / "snapshots" / COMMIT
    assert [str((snapshot / name).readlink())[:12] for name in hub.files] == ["../../blobs/", "../../blobs/"]
    assert (snapshot.parent.parent / "refs" / "main").read_text() == COMMIT


def test_what_is_here_is_hashed_and_not_asked_for(hub: Hub) -> None:
    pulled()
    asked = len(hub.log)
    assert not pulled().fetched
    assert len(hub.log) == asked


def test_huggingface_hub_takes_what_we_fetched_without_fetching(hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    expected = pulled().weights.model
    assert Path(hf_hub_download(REPO, "model.gguf", endpoint=hub.url)) == expected
    assert len(hub.starts()) == 2


def test_what_huggingface_hub_fetched_is_taken_without_fetching(hub: Hub) -> None:
    from huggingface_hub import hf_hub_download

    for name in hub.files:
        hf_hub_download(REPO, name, endpoint=hub.url)
    asked = len(hub.log)
    assert not pulled().fetched
    assert len(hub.log) == asked


def test_where_there_are_no_links_the_files_themselves_are_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    model = pulled(sha256=hashlib.sha256(hub.files["model.gguf"]).hexdigest()).weights.model
    assert model.read_bytes() == hub.files["model.gguf"]
    assert not model.is_symlink()
    snapshots = [f"models--me--tiny/snapshots/{COMMIT}/{name}" for name in hub.files]
    assert in_cache() == sorted([*snapshots, "models--me--tiny/refs/main"])


def test_a_server_without_a_cdn_is_as_good(hub: Hub) -> None:
    hub.through_cdn = False
    pulled()
    assert whole(hub)


def test_a_token_goes_to_the_hub_and_nowhere_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pulled()
    lower = [{name.lower() for name in headers} for headers in hub.headers]
    for (_, path, _), names in zip(hub.log, lower, strict=True):
        assert ("authorization" in names) == (not path.startswith("/cdn/"))


def test_nothing_but_the_files_is_asked_of_the_hub(hub: Hub) -> None:
    """huggingface_hub would ask for more, to report on this computer."""
    pulled()
    assert {path.rpartition("/")[2] for _, path, _ in hub.log} == set(hub.files)
    assert len(hub.log) == 6


def test_progress_ends_where_the_file_does(hub: Hub) -> None:
    seen: list[Progress] = []
    pulled(seen=seen)
    for role, name in (("model", "model.gguf"), ("projector", "mmproj.gguf")):
        mine = [one for one in seen if one.role == role and one.doing == "fetching"]
        assert [one.done for one in mine] == sorted(one.done for one in mine)
        assert mine[-1].done == mine[-1].size == len(hub.files[name])


# Lines that fail


PASSING = {
    "cut": [faults.cut(100_000)],
    "cut at once": [faults.cut(0), faults.cut(0)],
    "reset": [faults.reset(100_000), faults.reset(3)],
    "stall": [faults.stall(100_000)],
    "trickle": [faults.trickle],
    "no ranges": [faults.cut_without_ranges(100_000), faults.without_ranges],
    "no ranges, cut early": [
        faults.cut_without_ranges(100_000),
        faults.cut_without_ranges(5_000),
        faults.without_ranges,
    ],
    "500": [faults.status(500)],
    "503, later": [faults.cut(100_000), faults.status(503), faults.status(502)],
    "429": [faults.status(429, {"Retry-After": "0"})],
    "many": [faults.cut(5_000)] * 12,
}


@pytest.mark.parametrize("bodies", PASSING.values(), ids=PASSING)
def test_what_passes_is_survived(hub: Hub, bodies: list[faults.Fault]) -> None:
    hub.bodies = list(bodies)
    pulled()
    assert whole(hub)
    assert hub.bodies == []


def test_within_a_run_not_one_byte_is_fetched_twice(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.cut(100_000), faults.cut(50_000), faults.cut(200_001)]
    pulled()
    assert hub.starts() == [0, 0, 100_000, 150_000, 350_001]


def test_a_run_goes_on_where_the_last_one_stopped(hub: Hub) -> None:
    """Less what may not have reached the disk if the power went."""
    hub.bodies = [faults.whole, faults.cut(200_000), *[faults.status(503)] * LIMITS.tries]
    failed = failure()
    assert (failed.exit_code, failed.what) == (5, "model.gguf")
    assert "kept" in failed.hint
    pulled()
    assert whole(hub)
    assert hub.starts()[-1] == 200_000 // MARK * MARK


def test_no_line_is_too_bad_while_it_brings_something(hub: Hub) -> None:
    """A line that breaks every 20 kB still brings the file."""
    hub.bodies = [faults.reset(20_000) for _ in range(42)]
    pulled()
    assert whole(hub)


@pytest.mark.parametrize("questions", [[faults.status(500)], [faults.status(503), faults.status(504)]])
def test_a_question_is_asked_again(hub: Hub, questions: list[faults.Fault]) -> None:
    hub.heads = list(questions)
    pulled()
    assert whole(hub)


# Servers that refuse


HTTP_DATE = email.utils.formatdate(time.time() + 86_400, usegmt=True)
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model me/tiny is restricted"}
REFUSALS = {
    "401": (faults.status(401), "there is no me/tiny, or it is private"),
    "403": (faults.status(403), "refuses it (403)"),
    "gated": (faults.status(403, GATED), "its owners want to be asked first"),
    "404": (faults.status(404, {"X-Error-Code": "RepoNotFound"}), "there is no me/tiny on"),
    "no such file": (faults.status(404, {"X-Error-Code": "EntryNotFound"}), "me/tiny has no file of this name"),
    "429 for a day": (faults.status(429, {"Retry-After": "86400"}), "wants a pause (429) of 24 hours"),
    "429 until a date": (faults.status(429, {"Retry-After": HTTP_DATE}), "wants a pause (429) of 24 hours"),
    "400": (faults.status(400), "answers 400"),
    "a login page": (faults.login_page, "answers, but not as a model hub does"),
    "in circles": (faults.in_circles, "sends in circles"),
}


@pytest.mark.parametrize(("answer", "why"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("when", ["asking", "fetching"])
def test_a_refusal_has_a_sentence_of_its_own(hub: Hub, answer: faults.Fault, why: str, when: str) -> None:
    (hub.heads if when == "asking" else hub.bodies).append(answer)
    failed = failure()
    assert (failed.exit_code, why in failed.why) == (5, True), failed
    assert failed.hint
    hub.heads.clear()
    hub.bodies.clear()
    pulled()
    assert whole(hub)


@pytest.mark.parametrize("code", [500, 503])
def test_a_server_that_stays_broken_ends_it(hub: Hub, code: int) -> None:
    hub.heads = [faults.status(code)] * 3
    assert f"is out of order ({code})" in failure().why
    assert len(hub.log) == 3


def test_a_pause_that_is_asked_for_is_made(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("llava_cli.hub.time.sleep", pauses.append)
    hub.heads, hub.bodies = [faults.status(429, {"Retry-After": "5"})], [faults.status(503, {"Retry-After": "6"})]
    notes: list[str] = []
    pulled(notes=notes)
    assert pauses == [5, 6]
    assert notes[0].endswith("wants a pause (429) of 5 seconds; trying again in 5 s")


def test_a_token_that_is_refused_is_said_to_be(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.heads = [faults.status(401)]
    assert "does not accept this token" in failure().why


def test_a_file_that_is_not_there_is_answered_with_those_that_are(hub: Hub) -> None:
    hub.files["other.gguf"] = hub.files.pop("model.gguf")
    assert failure().hint == "it has mmproj.gguf, other.gguf"


def test_without_a_network_it_is_said_to_be_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://no.invalid/{repo_id}/{revision}/{filename}")
    assert failure().why == "no.invalid is not found"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:1/{repo_id}/{revision}/{filename}")
    assert failure().why == "no connection to 127.0.0.1:1"


def test_offline_is_obeyed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in failure().why
    assert hub.log == []


# Servers that say what is not so


def flipped(body: bytes) -> bytes:
    return body[:200_000] + bytes([body[200_000] ^ 1]) + body[200_001:]


SUM = r"\(sha256 [0-9a-f]{64} instead of [0-9a-f]{64}\)"


def test_a_flipped_bit_is_found_and_nothing_of_it_is_kept(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.of_other_bytes(flipped)]
    with pytest.raises(DownloadFailed, match=f"the bytes that came are not those the hub announced {SUM}"):
        pulled()
    assert not [name for name in in_cache() if "incomplete" in name]
    pulled()
    assert whole(hub)


WRONG_LENGTHS = {
    "shorter": (faults.of_other_bytes(lambda body: body[:-7]), "announced 633,472 bytes, but sends 633,465"),
    "longer": (faults.of_other_bytes(lambda body: body + b"7 bytes"), "announced 633,472 bytes, but sends 633,479"),
    "endless": (faults.unbounded, "announced 633,472 bytes, but sends more"),
    "a page": (faults.login_page, "answers, but not as a model hub does"),
    "compressed": (faults.status(200, {"Content-Encoding": "gzip"}), "answers, but not as a model hub does"),
    "nothing": (faults.status(204), "answers, but not as a model hub does"),
}


@pytest.mark.parametrize(("answer", "why"), WRONG_LENGTHS.values(), ids=WRONG_LENGTHS)
def test_what_cannot_be_the_file_is_not_taken_for_it(hub: Hub, answer: faults.Fault, why: str) -> None:
    hub.bodies = [faults.whole, answer]
    assert why in failure().why
    pulled()
    assert whole(hub)


def test_a_file_that_changes_while_it_is_fetched_is_fetched_anew(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    after = write_tiny_pair(tmp_path / "new", seed=5)[0].read_bytes()

    def change(exchange: faults.Exchange, body: bytes, start: int) -> None:
        hub.files["model.gguf"] = after
        faults.cut(200_000)(exchange, body, start)

    hub.bodies = [faults.whole, change]
    assert failure().why == "it was replaced on the hub while it was fetched"
    pulled()
    assert whole(hub)


@pytest.mark.parametrize("etag", ["../../../../evil", "/etc/passwd", "a" * 63, "", "x\x7fy", "A" * 64, "W/" + "b" * 40])
def test_no_name_from_a_server_becomes_a_path(hub: Hub, etag: str) -> None:
    hub.etag = lambda _: etag
    assert "does not say its size and sha256" in failure().why
    assert in_cache() == []


@pytest.mark.parametrize("commit", ["../../evil", "", "main", "C0FFEE" * 7])
def test_no_commit_from_a_server_becomes_a_path(hub: Hub, commit: str) -> None:
    hub.commit = commit
    assert "answers, but not as a model hub does" in failure().why
    assert in_cache() == []


@pytest.mark.parametrize("name", ["../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "a\\b", "", "a//b"])
def test_no_name_in_a_list_leads_out_of_the_cache(hub: Hub, name: str) -> None:
    model = FileSpec(REPO, name)
    with pytest.raises(LlavaError, match="not the name of a file"):
        hub_cache.find(model)


# Files the registry knows


def test_a_file_that_was_replaced_upstream_is_refused_before_a_byte_is_fetched(hub: Hub) -> None:
    failed = failure(sha256="0" * 64)
    upstream = hashlib.sha256(hub.files["model.gguf"]).hexdigest()
    assert failed.why == f"the file upstream is not the one this list knows (sha256 {upstream} instead of {'0' * 64})"
    assert "--trust" in failed.hint
    assert hub.starts() == []


def test_with_trust_it_is_taken(hub: Hub) -> None:
    pulled(sha256="0" * 64, trust=True)
    assert whole(hub)


def test_a_known_sum_is_enough_where_a_mirror_tells_none(hub: Hub) -> None:
    known = {name: hashlib.sha256(body).hexdigest() for name, body in hub.files.items()}
    hub.etag = lambda body: "" if body == hub.files["model.gguf"] else known["mmproj.gguf"]
    pulled(sha256=known["model.gguf"])
    assert whole(hub)


def test_a_mirror_with_another_file_is_found_out_at_the_end(hub: Hub) -> None:
    hub.etag = lambda body: "" if len(body) > 500_000 else hashlib.sha256(body).hexdigest()
    failed = failure(sha256="0" * 64)
    assert failed.why.startswith("the file upstream is not the one this list knows (sha256 ")
    assert not [name for name in in_cache() if "incomplete" in name]


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub) -> None:
    model = pulled().weights.model
    model.write_bytes(flipped(hub.files["model.gguf"]))
    notes: list[str] = []
    assert pulled(notes=notes).fetched
    assert whole(hub)
    assert notes == ["model.gguf: the file in the cache is damaged or another one; it is fetched again"]


def test_a_cut_file_in_the_cache_is_fetched_again(hub: Hub) -> None:
    pulled().weights.model.write_bytes(b"")
    assert pulled().fetched
    assert whole(hub)


def test_a_part_of_an_older_version_goes(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.cut(200_000), *[faults.status(503)] * LIMITS.tries]
    failure()
    hub.files["model.gguf"] += b"\0"
    pulled()
    assert whole(hub)


def test_a_part_that_is_too_long_is_begun_again(hub: Hub) -> None:
    hub.bodies = [faults.whole, faults.cut(200_000), *[faults.status(503)] * LIMITS.tries]
    failure()
    (part,) = hub_cache.parts(FileSpec(REPO, "model.gguf"))
    part.write_bytes(bytes(700_000))
    pulled()
    assert whole(hub)


def test_a_part_that_is_a_link_is_not_followed(hub: Hub, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    part = hub_cache.part_path(FileSpec(REPO, "model.gguf"), hashlib.sha256(hub.files["model.gguf"]).hexdigest())
    part.parent.mkdir(parents=True)
    part.symlink_to(victim)
    assert failure().exit_code == 5
    assert victim.read_text() == "mine"


# Disks


def test_a_full_disk_is_refused_before_a_byte_is_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr("llava_cli.pull.shutil.disk_usage", lambda path: real(path)._replace(free=900_000))
    with pytest.raises(NotEnoughRoom, match=r"tiny: it takes 1\.1 MB, and .* has 0\.9 MB left"):
        pulled()
    assert hub.starts() == []
