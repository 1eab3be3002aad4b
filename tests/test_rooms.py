"""Facts about the plan of the house: imports point upstream, start-up is light, public names are kept."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import llava_cli

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "llava_cli"


def rooms_in_order():
    """Return the rooms as CONTRIBUTING lists them, upstream first."""
    return re.findall(r"^\| `(\w+)\.py` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)


def test_the_table_of_rooms_is_complete():
    assert sorted(rooms_in_order()) == sorted(p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("__"))


def imported(path):
    """Return the rooms that a file imports, wherever in it."""
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "llava_cli":
            used |= {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llava_cli."):
            used.add(str(node.module).split(".")[1])
    return used


@pytest.mark.parametrize("room", [room for room in rooms_in_order() if room != "cli"])
def test_imports_point_upstream(room):
    order = rooms_in_order()
    assert not [name for name in imported(PACKAGE / f"{room}.py") if order.index(name) >= order.index(room)]


@pytest.mark.parametrize("command", [path.stem for path in (PACKAGE / "commands").glob("*.py")])
def test_commands_stand_between_the_rooms_and_the_command_line(command):
    assert "cli" not in imported(PACKAGE / "commands" / f"{command}.py")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["ask", "--help"],
        ["chat", "--help"],
        ["run", "--help"],
        ["pull", "--help"],
        ["web", "--help"],
        ["serve", "--help"],
        ["--version"],
        [],
        ["cache"],
        ["cache", "clear"],
        ["log"],
        ["config"],
    ],
)
def test_help_and_version_load_nothing_heavy(arguments):
    code = (
        "import sys, atexit\n"
        "heavy = {'llama_cpp', 'numpy', 'PIL', 'huggingface_hub', 'gguf', 'prompt_toolkit', 'fastapi', 'uvicorn'}\n"
        "heavy |= {'gradio'}\n"
        "atexit.register(lambda: print('loaded:', sorted(heavy & set(sys.modules))))\n"
        f"sys.argv = ['llava', *{arguments!r}]\n"
        "from llava_cli.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_the_public_names_are_sorted_and_exist():
    assert sorted(llava_cli.__all__) == llava_cli.__all__
    assert all(getattr(llava_cli, name) is not None for name in llava_cli.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llava_cli.nonsense


_WRITES = re.compile(
    r"\bprint\(|std(out|err)\.write|std(out|err)\.buffer|\becho\(|rprint|\bConsole\(|os\.write\([12],|warnings\.warn|logging"
)


def test_only_one_room_writes_to_the_terminal():
    """Whoever writes past it shows what models, files and servers say as it is."""
    writers = {
        str(path.relative_to(PACKAGE)): {found[0] for found in _WRITES.finditer(ast.unparse(without_text(path)))}
        for path in PACKAGE.rglob("*.py")
    }
    assert {
        "render.py": {"print(", "stdout.write"},
        "stage_line.py": {"Console("},  # the one that all of these draw on
        "markdown_stream.py": {"print("},  # what `Output` gives it, sanitised
        "progress.py": {"print("},  # a note above moving bars, sanitised
        "run_display.py": {"print("},  # the same
        "hub.py": {"logging"},  # it silences the hub library
        "listening.py": {"logging"},  # it silences uvicorn; with LLAVA_DEBUG=1 its tracebacks come, sanitised
    } == {name: what for name, what in writers.items() if what}


def without_text(path):
    """Return the tree of a file without its docstrings and other strings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return tree


def test_nothing_is_ever_unpickled():
    """A pickle is a program; no file this package reads may be one, nor anything else that runs what it reads."""
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "torch"}
    calls = {"eval", "exec", "compile", "__import__", "pickle", "unpickle", "read_pickle", "allow_pickle"}
    used = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                used |= {alias.name.partition(".")[0] for alias in node.names} & modules
            elif isinstance(node, ast.ImportFrom):
                used |= {str(node.module).partition(".")[0], *(alias.name for alias in node.names)} & modules
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                used |= {node.func.id} & calls
            elif isinstance(node, ast.keyword):
                used |= {str(node.arg)} & calls
    assert set() == used


def test_the_tests_that_the_table_of_faults_names_exist():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "tests" / "faults.md").read_text())
    assert named
    assert [] == [(file, test) for file, test in named if f"def {test}(" not in (ROOT / "tests" / file).read_text()]
