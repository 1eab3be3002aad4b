"""Runs one test of Hypothesis under Atheris, which follows the paths that an input takes through the program.

    pip install atheris
    python -m tests.fuzz test_a_damaged_picture_is_opened_or_refused -max_total_time=600

takes the name of any test of `tests/test_fuzzed_*.py` that has no fixtures, and the options of libFuzzer. What it finds
is an ordinary failure of the test, and the input lies beside, in a file that can be given instead of options.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from typing import Any

_FILES = ("tests.test_fuzzed_files", "tests.test_fuzzed_text")


def main() -> None:
    """Fuzz the test that the command line names, in a home of its own."""
    import atheris

    os.environ["HOME"] = tempfile.mkdtemp()
    with atheris.instrument_imports(include=["llava_cli", "PIL", "tomllib"]):
        modules = [importlib.import_module(name) for name in _FILES]
    test: Any = next(vars(module)[sys.argv[1]] for module in modules if sys.argv[1] in vars(module))
    atheris.Setup([sys.argv[0], *sys.argv[2:]], test.hypothesis.fuzz_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
