"""Run llava as a Raspberry Pi 5 runs it, under emulation, and compare its answers with those given here.

`python -m benchmarks.raspberry_pi DIR` makes in DIR, from nothing and without root: Python for arm64 (Debian packages),
llama.cpp compiled for the processor of the Pi 5 from the sdist of the llama-cpp-python that is installed, and all
other packages as arm64 wheels in the versions that are installed. What is there already is not made again. Then both
sides answer the questions of `training/evaluate.py`, with `shapes` as it is and in Q4_K_M, whose weights get repacked.
It ends with exit code 1 unless every answer is equal and each side repacks where `llava_cli/policy.py` says it wins.

Runs on Debian with qemu-user, gcc-aarch64-linux-gnu, g++-aarch64-linux-gnu and cmake. No emulation tells how fast
a Pi is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.build_peers import run, unpacked_sdist
from benchmarks.programs import own_environment

ROOT = Path(__file__).parent.parent

_DEBIAN_PACKAGES = ("python3", "libgomp1", "libstdc++6")
_WHEEL_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64",
                    "manylinux2014_aarch64", "linux_aarch64")  # fmt: skip

# What the kernel of a Pi 5 says; without these files the emulated processor would have the flags of this computer's.
_FILES_OF_A_PI = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid"
    " asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
}


@dataclass(frozen=True)
class Side:
    """A computer that answers: how its Python is started."""

    python: tuple[str, ...]
    environment: dict[str, str]

    def call(self, *arguments: object) -> str:
        """Run a module of Python on this side and return what it wrote to stdout."""
        words = [*self.python, "-m", *map(str, arguments)]
        return subprocess.run(
            words, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def answers(self, *arguments: object) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.call("benchmarks.shapes_answers", *arguments))
        return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--scenes", type=int, default=10, help="ten questions about each (default: %(default)s)")
    parser.add_argument("--cpu", default="cortex-a76", help="what qemu-aarch64 emulates (default: %(default)s)")
    parser.add_argument("--arch", default="armv8.2-a+dotprod+fp16", help="what is compiled for (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    chosen = parser.parse_args()
    place = chosen.directory.resolve()
    place.mkdir(parents=True, exist_ok=True)

    here = Side((sys.executable,), {**own_environment(place / "home-here"), "PYTHONPATH": str(ROOT)})
    system = unpacked_python(place)
    engine = built_engine(place / chosen.arch, chosen.arch, chosen.jobs)
    pi = emulated(system, chosen.cpu, installed(place / chosen.arch / "site", engine, python_of(system)))

    print(pi.call("llava_cli", "doctor", "-m", "shapes"))
    quantised = quantise(place / "shapes-model-Q4_K_M.gguf")
    tries: dict[str, tuple[object, ...]] = {
        "as it is (f16)": (),
        "in Q4_K_M": ("--model", quantised),
        "in Q4_K_M, not repacked": ("--model", quantised, "--no-repack"),
    }
    good = True
    for what, options in tries.items():
        ours, theirs = (side.answers("--scenes", chosen.scenes, *options) for side in (here, pi))
        good &= compare(f"shapes {what}", ours, theirs, chose="--no-repack" not in options)
    raise SystemExit(not good)


def unpacked_python(place: Path) -> Path:
    """Unpack Debian's Python for arm64, and what it needs, beside each other; nothing is installed on this computer."""
    system = place / "system"
    if (system / "usr" / "bin" / "python3").exists():
        return system
    apt = place / "apt"
    for directory in ("state/lists/partial", "cache/archives/partial"):
        (apt / directory).mkdir(parents=True, exist_ok=True)
    (apt / "status").write_text("")  # as if no package was installed
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures::": "arm64", "Dir::State": apt / "state",
        "Dir::State::status": apt / "status", "Dir::Cache": apt / "cache", "Debug::NoLocking": "1",
        "APT::Sandbox::User": "",
    }  # fmt: skip
    command = ["apt-get", "-q", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    run(*command, "update")
    run(*command, "install", "--yes", "--no-install-recommends", "--download-only", *_DEBIAN_PACKAGES)
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        run("dpkg-deb", "--extract", package, system)
    for name, text in _FILES_OF_A_PI.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(text)
    return system


def python_of(system: Path) -> str:
    """Return the version of Python in `system`, as 3.11."""
    return (system / "usr" / "bin" / "python3").readlink().name.removeprefix("python")


def built_engine(place: Path, arch: str, jobs: int) -> Path:
    """Compile llama-cpp-python for arm64 as pip does it on a Pi, only with a cross compiler; return the wheel."""
    if built := list(place.glob("llama_cpp_python-*.whl")):
        return built[0]
    compiled = place / "compiled"
    place.mkdir(exist_ok=True)
    options = {
        "CMAKE_SYSTEM_NAME": "Linux", "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": "aarch64-linux-gnu-gcc", "CMAKE_CXX_COMPILER": "aarch64-linux-gnu-g++",
        "GGML_NATIVE": "OFF", "GGML_CPU_ARM_ARCH": arch,
    }  # fmt: skip
    environment = {
        **os.environ,
        "CMAKE_ARGS": " ".join(f"-D{name}={value}" for name, value in options.items()),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
    }
    source = next(place.glob("llama_cpp_python-*/"), None) or unpacked_sdist(place)
    # With a directory of its own, what was interrupted goes on. From pip's cache would come what was compiled for
    # this computer.
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-cache-dir", "-v")
    settings = ("--config-settings", f"build-dir={place / 'build'}", "--wheel-dir", compiled, source)
    subprocess.run([*pip, *map(str, settings)], env=environment, check=True)
    (wheel,) = compiled.glob("*.whl")
    # pip names it after the computer that compiled it.
    return wheel.rename(place / f"{'-'.join(wheel.stem.split('-')[:4])}-linux_aarch64.whl")


def installed(site: Path, engine: Path, python: str) -> Path:
    """Install llava, `engine` and all they need into `site`, in the versions that are installed here."""
    shutil.rmtree(site, ignore_errors=True)
    wheels = site.with_name("wheels")
    shutil.rmtree(wheels, ignore_errors=True)
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "--wheel-dir", wheels, ROOT)
    constraints = site.with_name("constraints.txt")
    others = (one for one in distributions() if one.name != "llava-cli")
    constraints.write_text("".join(f"{one.name}=={one.version}\n" for one in others))
    platforms = [word for name in _WHEEL_PLATFORMS for word in ("--platform", name)]
    run(*pip, "install", "-q", "--target", site, "--only-binary", ":all:", "--python-version", python,
        *platforms, "--constraint", constraints, engine, *wheels.glob("*.whl"))  # fmt: skip
    return site


def emulated(system: Path, cpu: str, site: Path) -> Side:
    """Return the side whose processor is `cpu`."""
    environment = {
        **own_environment(system.with_name("home-pi")),
        "QEMU_CPU": cpu,
        "QEMU_LD_PREFIX": str(system),
        "PYTHONPATH": os.pathsep.join((str(site), str(ROOT))),
    }
    return Side(("qemu-aarch64", str(system / "usr" / "bin" / "python3")), environment)


def quantise(path: Path) -> Path:
    """Write the language model of shapes in the quant that most people take."""
    import llama_cpp

    from llava_cli import engine_log, registry
    from llava_cli.weights import find_weights

    engine_log.silence()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    model = find_weights(registry.find("shapes")).model
    if llama_cpp.llama_model_quantize(os.fsencode(model), os.fsencode(path), params) != 0:
        raise SystemExit(f"llama.cpp could not write {path}")
    return path


def compare(what: str, ours: dict[str, Any], theirs: dict[str, Any], chose: bool) -> bool:
    """Print how the answers of two sides compare, and tell whether all is as it should be.

    If they `chose` how to open the model, a side with dot products must have chosen to repack, and only such a one.
    """
    pairs = list(zip(ours["answers"], theirs["answers"], strict=True))
    for one, other in pairs:
        if one != other:
            print(f"  {one['scene']}, {one['question']} {one['answer']!r} here, {other['answer']!r} there")
    same = sum(one == other for one, other in pairs)
    print(f"{what}: {same} of {len(pairs)} answers equal")
    as_the_table_says = True
    for told in (ours, theirs):
        options, features = told["options"], told["features"]
        right = sum(one["answer"] == one["truth"] for one in told["answers"])
        print(
            f"  {told['machine']}: {right} right; repacking {'on' if options['repack'] else 'off'},"
            f" {options['threads']} threads, batch {options['ubatch']}; {told['seconds']:.0f} s; {', '.join(features)}"
        )
        as_the_table_says &= not chose or options["repack"] == ("DOTPROD" in features)
    return same == len(pairs) and as_the_table_says


if __name__ == "__main__":
    main()
