"""Looks over this installation: what is wrong, what mends it, and what this machine has for a model."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llava_cli import __version__, machine, registry, settings
from llava_cli.errors import EngineFailed, LlavaError, NotEnoughRoom
from llava_cli.fitting import Fit, fit
from llava_cli.policy import cpu_features
from llava_cli.registry import ModelSpec
from llava_cli.settings import LoadOptions
from llava_cli.weights import open_weights

_SMALL_DISK = 2_000_000_000
_PACKAGES = ("llama-cpp-python", "numpy", "pillow", "huggingface_hub", "typer", "rich")

_EXPECTED = {"avx2": "AVX2", "avx512f": "AVX512", "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8"}
"""What the system calls a feature of the processor, and what llama.cpp calls it if it was built to use it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    error: LlavaError
    stops: bool = True
    """Whether `llava` cannot run because of it; else it is only slower, or has less room, than it could."""


@dataclass
class Checkup:
    """What was found, the worst first, and the facts behind it."""

    findings: list[Finding] = field(default_factory=list)
    fit: Fit | None = None
    """The model that was looked at, if its files are there and sound."""
    limits: list[machine.Limit] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """Return 0 if `llava` can run, else the code of the first thing that stops it."""
        return next((found.error.exit_code for found in self.findings if found.stops), 0)

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON knows it; sizes are bytes."""
        fitted = self.fit
        plan = None
        if fitted is not None:
            plan = asdict(fitted.plan) | {"private": fitted.plan.private, "peak": fitted.plan.peak}
        return {
            "problems": [
                {"what": e.what, "why": e.why, "hint": e.hint, "exit_code": e.exit_code if found.stops else 0}
                for found in self.findings
                for e in (found.error,)
            ],
            "model": fitted.spec.name if fitted is not None else None,
            "options": asdict(fitted.options) if fitted is not None else None,
            "memory": plan,
            "limits": [asdict(limit) for limit in self.limits],
            "facts": self.facts,
        }


def check_up(spec: ModelSpec | None, options: LoadOptions) -> Checkup:
    """Look at everything; no model is loaded, nothing downloaded. Without a `spec` only at the machine."""
    found = Checkup(limits=machine.limits())
    features = frozenset[str]()
    try:
        features = cpu_features()
    except (ImportError, OSError, RuntimeError) as error:
        found.findings.append(Finding(_broken_engine(error)))
    else:
        if spec is not None:
            _look_at_model(found, spec, options)
    found.findings += _wrong_builds(features)
    found.findings += _slowed_down()
    found.findings += _small_disks()
    found.findings.sort(key=lambda finding: not finding.stops)
    found.facts = dict(_facts(features))
    return found


def _look_at_model(found: Checkup, spec: ModelSpec, options: LoadOptions) -> None:
    try:
        found.fit = fit(spec, open_weights(spec, projector_quant=options.projector_quant), options)
    except LlavaError as error:
        found.findings.append(Finding(error))
        return
    if (refusal := found.fit.refusal()) is not None:
        found.findings.append(Finding(refusal))


def _broken_engine(error: Exception) -> LlavaError:
    why = f"it cannot be loaded ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return EngineFailed("llama-cpp-python", why, hint=rebuild())


def _wrong_builds(features: Collection[str]) -> Iterator[Finding]:
    """Find out whether llama.cpp was built for another processor than this one, as ready-made wheels are."""
    has = _processor_flags()
    # An emulator tells this program of the processor it plays, and /proc/cpuinfo of the one it runs on.
    if features and has and ("NEON" in features) == bool({"asimd", "neon"} & has):
        if lacking := [name for flag, name in _EXPECTED.items() if flag not in has and name in features]:
            why = f"it was built with {', '.join(lacking)}, which this processor does not have, so it would crash"
            yield Finding(EngineFailed("llama.cpp", why, hint=rebuild()))
        elif unused := [name for flag, name in _EXPECTED.items() if flag in has and name not in features]:
            why = f"it was built without {', '.join(unused)}, which this processor has, so it is slower than need be"
            yield Finding(EngineFailed("llama.cpp", why, hint=rebuild()), stops=False)
    if machine.is_32_bit():
        why = "this Python is a 32-bit program, so a model and all else must fit into 3 GB of addresses"
        yield Finding(NotEnoughRoom("Python", why, hint="a 64-bit system runs larger models"), stops=False)


def _slowed_down() -> Iterator[Finding]:
    bits = machine.throttled()
    if bits & 0x1_0001:
        why = "it has slowed down since it was started, because its power supply gave too little voltage"
        yield Finding(EngineFailed("processor", why, hint="the supply made for it gives enough (27 W)"), stops=False)
    elif bits:
        why = "it has slowed down since it was started, because it was too hot"
        yield Finding(EngineFailed("processor", why, hint="a cooler keeps it fast"), stops=False)


def _processor_flags() -> set[str]:
    text = ""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return set(flags[1].split()) if flags else set()


def rebuild() -> str:
    """Write the line that compiles llama.cpp for this processor, into this environment, by what manages it."""
    python, package = shlex.quote(sys.executable), "llama-cpp-python"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        package += f"=={importlib.metadata.version(package)}"
    what = f"--no-deps --no-binary llama-cpp-python {package}"
    if importlib.util.find_spec("pip") is not None:
        return f"CMAKE_ARGS=-DGGML_NATIVE=ON {python} -m pip install --force-reinstall --no-cache-dir {what}"
    # uv makes its environments without pip, for itself and for pipx.
    return f"CMAKE_ARGS=-DGGML_NATIVE=ON uv pip install --python {python} --reinstall --no-cache {what}"


def _small_disks() -> Iterator[Finding]:
    for what, path in _disks().items():
        free = _free(path)
        if free is not None and free < _SMALL_DISK:
            why = f"{path} has {free / 1e9:.1f} GB left"
            yield Finding(NotEnoughRoom(what, why, hint="llava cache clear gives back what pictures take"), stops=False)


def _disks() -> dict[str, Path]:
    from huggingface_hub import constants

    return {"cache": settings.cache_dir(), "models": Path(constants.HF_HUB_CACHE)}


def _free(path: Path) -> int | None:
    there = next((one for one in (path, *path.parents) if one.exists()), None)
    with contextlib.suppress(OSError):
        return shutil.disk_usage(there).free if there is not None else None
    return None


def _facts(features: frozenset[str]) -> Iterator[tuple[str, str]]:
    yield "llava", __version__
    yield "Python", f"{platform.python_version()}, {'32' if machine.is_32_bit() else '64'} bit"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "processor", f"{machine.processor()}, {machine.physical_cores()} physical cores to use"
    yield "llama.cpp uses", ", ".join(sorted(features)) or "unknown"
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
    yield "config file", str(settings.config_path())
    yield "data", str(settings.data_dir())
    for what, path in _disks().items():
        free = _free(path)
        yield what, f"{path}" + (f" ({free / 1e9:.0f} GB free)" if free is not None else "")
    yield "models known", ", ".join(spec.name for spec in registry.all_specs())
