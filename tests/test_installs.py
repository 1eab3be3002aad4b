"""Facts about installing: the wheel and the sdist, with pip, pipx and uv, in empty environments with difficult names.

Nothing is compiled and nothing is downloaded: what llava needs is packed into wheels from this environment.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.processes import ROOT
from tests.repacked import write_wheels
from tests.test_readme import README

pytestmark = pytest.mark.installs

PLACE = "Meine Bilder ü ☃"
PIP = (sys.executable, "-m", "pip")


def run(*command, **options):
    """Run a command to its end and return what it wrote to stdout; it must succeed."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False, **options)
    assert 0 == done.returncode, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """Write a wheel of everything that llava needs to be built and to run."""
    directory = tmp_path_factory.mktemp("packages")
    # Not what the metadata of an editable install say: those are as old as that.
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    write_wheels(directory, "hatchling", "editables", *needed)
    return directory


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Build both from this tree: (wheel, sdist)."""
    directory = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-d", directory, cwd=ROOT)
    return next(directory.glob("*.whl")), next(directory.glob("*.tar.gz"))


@pytest.fixture
def tree(built, tmp_path):
    """Unpack the sdist where names are difficult."""
    with tarfile.open(built[1]) as packed:
        packed.extractall(tmp_path / PLACE, filter="data")
    return next((tmp_path / PLACE).iterdir())


@pytest.fixture(autouse=True)
def _alone(packages, tmp_path, monkeypatch):
    """Let no installer see this tree, its user's settings, or a network."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_", "PIPX_", "PYTHONPATH"))]:
        monkeypatch.delenv(name)
    place = tmp_path / PLACE
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": packages,
        "UV_NO_CONFIG": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": packages, "UV_OFFLINE": "1",
        "UV_CACHE_DIR": tmp_path / "uv-cache", "UV_TOOL_DIR": place / "tools", "UV_TOOL_BIN_DIR": place / "programs",
        "PIPX_HOME": place / "pipx", "PIPX_BIN_DIR": place / "programs", "PIPX_DEFAULT_BACKEND": "uv",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)


def with_pip(place, *what):
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv")
    run(*PIP, "--python", place / "venv/bin/python", "install", "--no-compile", *what)
    return place / "venv/bin/llava"


def with_uv(place, what):
    run("uv", "tool", "install", "--python", sys.executable, what)
    return place / "programs/llava"


def with_pipx(place, what):
    run("pipx", "install", "--python", sys.executable, what)
    return place / "programs/llava"


def require_whole(llava, home):
    """Require that `llava` answers from what was installed with it in `home`, and that nothing it needs is missing."""
    assert "red\n" == run(llava, "ask", ROOT / "examples/scene.png", "What color is the circle?", "-m", "shapes")
    python = llava.resolve().with_name("python")
    where = run(python, "-c", "import llava_cli; print(llava_cli.__file__)")
    assert Path(where).is_relative_to(home)
    run(*PIP, "--python", python, "check")
    assert run(llava, "show", "llava-v1.5-7b")


@pytest.mark.parametrize(
    ("way", "kind"), [(with_pip, "whl"), (with_pip, "gz"), (with_uv, "whl"), (with_uv, "gz"), (with_pipx, "whl")]
)
def test_it_answers_however_it_was_installed(way, kind, built, tmp_path):
    place = tmp_path / PLACE
    place.mkdir()
    require_whole(way(place, next(one for one in built if one.name.endswith(kind))), place)


def test_an_editable_install_runs_the_tree_itself(tree, tmp_path):
    require_whole(with_pip(tmp_path, "-e", tree), tree)


def test_the_first_command_of_the_readme_sets_up_and_answers(tree):
    command = next(line for line in README.splitlines() if line.startswith("python -m venv"))
    assert run("sh", "-c", command, cwd=tree).endswith("\nred\n")


def test_the_sdist_holds_what_the_tests_need_and_gives_the_same_wheel(built, tree, tmp_path):
    kept = run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1] if (ROOT / ".git").exists() else []
    assert [] == [name for name in kept if not (tree / name).exists() and not name.startswith(".")]
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", tmp_path, tree)
    wheels = built[0], next(tmp_path.glob("*.whl"))
    first, second = ({one.filename: one.CRC for one in zipfile.ZipFile(wheel).infolist()} for wheel in wheels)
    assert first == second


def test_the_wheel_holds_the_demo_model_the_list_of_models_and_the_licence(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
        (licence,) = (name for name in names if name.endswith("dist-info/licenses/LICENSE"))
        facts = message_from_bytes(wheel.read(licence.replace("licenses/LICENSE", "METADATA")))
    shapes = [f"llava_cli/data/shapes/shapes-{part}-f16.gguf" for part in ("mmproj", "model")]
    assert shapes == sorted(name for name in names if name.endswith(".gguf"))
    assert {"llava_cli/models.toml", "llava_cli/py.typed"} <= set(names)
    assert ("MIT", "LICENSE") == (facts["License-Expression"], facts["License-File"])
    assert [] == [name for name in names if not name.startswith(("llava_cli/", "llava_cli-"))]
