"""Facts about how long things took before."""

import json
import os

import pytest

from llava_cli import LoadOptions, load
from llava_cli.rates import Amount, Rates
from llava_cli.settings import cache_dir
from tests.processes import SCENE


@pytest.fixture
def rates(tiny_pair):
    """Make rates of the tiny model as a new process would, in the way asked for."""

    def made(**options):
        return Rates(*tiny_pair, LoadOptions(**options))

    return made


def file():
    return cache_dir() / "rates.json"


def learnt(rates, *took, **options):
    once = rates(**options)
    for one in took:
        once.learn(*one)
    once.save()


def test_nothing_is_known_at_first(rates):
    assert 0 == rates().expected("reading", 600)


def test_what_took_long_is_expected_to_take_long(rates):
    learnt(rates, ("loading", 1, 2.0), ("looking", 1, 3.0), ("reading", 600, 30.0))
    now = rates()
    assert [2.0, 6.0, 10.0] == [now.expected("loading"), now.expected("looking", 2), now.expected("reading", 200)]


def test_one_slow_time_counts_for_half(rates):
    learnt(rates, ("looking", 1, 2.0))
    learnt(rates, ("looking", 1, 6.0))
    assert 4.0 == rates().expected("looking")


def test_a_few_cells_teach_nothing(rates):
    learnt(rates, ("reading", 4, 1.0))
    assert 0 == rates().expected("reading", 600)


def test_another_way_of_opening_has_rates_of_its_own(rates):
    learnt(rates, ("reading", 600, 30.0), threads=1)
    assert 0 == rates(threads=2).expected("reading", 600)


def test_two_processes_both_leave_what_they_learnt(rates):
    one, other = rates(), rates()
    one.learn("looking", 1, 2.0)
    other.learn("loading", 1, 1.0)
    one.save()
    other.save()
    assert (2.0, 1.0) == (rates().expected("looking"), rates().expected("loading"))


def test_the_file_is_private_and_bounded(rates):
    file().parent.mkdir(parents=True)
    many = {str(n): {"seconds": 1.0, "used": float(n)} for n in range(200)}
    file().write_text(json.dumps(many))
    learnt(rates, ("looking", 1, 2.0))
    kept = json.loads(file().read_bytes())
    assert (0o600, 60) == (file().stat().st_mode & 0o777, len(kept))
    assert ("199" in kept, "0" in kept) == (True, False)


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[1]", b"\xff\xfe", b'{"a": 1}', b'{"K": {"seconds": NaN, "used": 1}}', b"[" * 5000,
     b'{"K": {"seconds": -5, "used": 1}}', b'{"K": {"seconds": "x", "used": 1}}',
     b'{"K": {"seconds": true, "used": 1}}'],
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(rates, damage):
    file().parent.mkdir(parents=True)
    file().write_bytes(damage.replace(b"K", rates()._keys["looking"].encode()))
    assert 0 == rates().expected("looking")
    learnt(rates, ("looking", 1, 2.0))
    assert 2.0 == rates().expected("looking")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_to_fails_nothing(rates):
    cache_dir().mkdir(parents=True)
    cache_dir().chmod(0o500)
    learnt(rates, ("looking", 1, 2.0))
    assert not file().exists()


def test_a_file_in_place_of_the_directory_fails_nothing(rates):
    cache_dir().parent.mkdir(parents=True)
    cache_dir().write_text("")
    learnt(rates, ("looking", 1, 2.0))


def test_a_second_run_knows_how_long_the_picture_will_take(tiny_pair):
    def heard():
        stages = []
        files = {"model_path": tiny_pair[0], "projector_path": tiny_pair[1]}
        options = LoadOptions(context=512, threads=1)
        with load(**files, options=options, cache=False, on_stage=lambda *stage: stages.append(stage)) as model:
            _ = model.ask(SCENE, "What color is the circle?", max_tokens=2).text
        return dict(stages)

    first, second = heard(), heard()
    assert [0, 0, 0] == [first[stage].seconds for stage in ("loading", "looking", "reading")]
    assert all(second[stage].seconds > 0 for stage in ("loading", "looking", "reading"))
    assert first["reading"] == second["reading"] > 48


def test_an_amount_is_a_number_that_knows_its_time():
    assert (Amount(5, 2.5) + 1, Amount(5, 2.5).seconds) == (6, 2.5)
