"""Build llama-mtmd-cli and llama-bench from the sources that the installed llama-cpp-python was built from.

`python -m benchmarks.build_peers DIR` downloads its sdist with pip, and builds what llama.cpp calls a release build for
this machine, as pip did for the wheel (about ten minutes on two cores). Needs a C++ compiler, cmake and ninja.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

PROGRAMS = ("llama-mtmd-cli", "llama-bench")

# The first two are what llama-cpp-python's CMakeLists.txt sets; the others leave out what is not needed here.
_OPTIONS = {
    "BUILD_SHARED_LIBS": "ON", "LLAMA_CURL": "OFF", "CMAKE_BUILD_TYPE": "Release",
    "LLAMA_OPENSSL": "OFF", "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_SERVER": "OFF",
    "LLAMA_BUILD_APP": "OFF", "LLAMA_BUILD_UI": "OFF", "LLAMA_USE_PREBUILT_UI": "OFF",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where it is built; the programs are in bin")
    parser.add_argument("--source", type=Path, help="an unpacked sdist, in place of a download")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    chosen.directory.mkdir(parents=True, exist_ok=True)
    source = chosen.source or unpacked_sdist(chosen.directory)
    options = [f"-D{name}={value}" for name, value in _OPTIONS.items()]
    run("cmake", "-G", "Ninja", "-S", source / "vendor" / "llama.cpp", "-B", chosen.directory, *options)
    run("cmake", "--build", chosen.directory, "--parallel", chosen.jobs, "--target", *PROGRAMS)
    print(f"{chosen.directory / 'bin'}: {', '.join(PROGRAMS)}")


def unpacked_sdist(directory: Path) -> Path:
    """Download the sdist of the installed llama-cpp-python, and unpack it into `directory`."""
    wanted = f"llama-cpp-python=={version('llama-cpp-python')}"
    with tempfile.TemporaryDirectory() as download:
        pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python")
        run(*pip, "-d", download, wanted)
        (archive,) = Path(download).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(directory, filter="data")
        return directory / archive.name.removesuffix(".tar.gz")


def run(*command: object) -> None:
    """Run a command; its failure is ours."""
    subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    main()
