"""Knows the computer: how much memory is left for us and who says so, processor cores, the width of an address."""

from __future__ import annotations

import contextlib
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Limit:
    """Something that ends what this process may take."""

    of: Literal["memory", "addresses", "data"]
    """Resident pages, the page cache included; the whole address space; or private writable memory, touched or not."""
    name: str
    room: int
    """Bytes that are left of it."""
    total: int


def limits(root: Path = Path("/")) -> list[Limit]:
    """Return every limit there is, the tightest of its kind first. `root` is where `/proc` and `/sys` are."""
    found = [*_system_memory(root), *_cgroup_limits(root), *_process_limits(root)]
    return sorted(found, key=lambda limit: (limit.of, limit.room))


def memory_room(root: Path = Path("/")) -> Limit | None:
    """Return the tightest limit of memory; None if this system does not tell."""
    return next((limit for limit in limits(root) if limit.of == "memory"), None)


def physical_cores(root: Path = Path("/")) -> int:
    """Count the physical cores this process may use; hyper-threads only slow llama.cpp down.

    A container may be given the time of fewer cores than it sees, and more threads would wait for one another.
    """
    try:
        allowed = os.sched_getaffinity(0)
        siblings = {Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in allowed}
        cores = len(siblings)
    except (AttributeError, OSError):
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_cpu_quotas(root)])))


def logical_cores() -> int:
    """Count the processors this process may run on, hyper-threads too."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """Name the processor as well as the system does."""
    for path, pattern in (
        ("/proc/cpuinfo", r"^model name\s*: (.+)$"),
        ("/proc/device-tree/model", r"^([^\0]+)"),
        ("/proc/cpuinfo", r"^(?:Model|Hardware)\s*: (.+)$"),
    ):
        if found := re.search(pattern, _text(Path(path)), flags=re.MULTILINE):
            return found[1].strip()
    return _command("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string").strip() or os.uname().machine


def throttled() -> int:
    """Return the bits in which the firmware of a Raspberry Pi tells why it slowed down; 0 if it did not, and elsewhere.

    Bit 0 is too little voltage now, bits 1 to 3 are limits by that or by heat; 16 more: at some time since the start.
    """
    found = re.search(r"throttled=0x([0-9a-f]+)", _command("vcgencmd", "get_throttled"))
    return int(found[1], 16) if found else 0


def is_32_bit() -> bool:
    """Tell whether this Python, and so llama.cpp, can address no more than 4 GB."""
    return sys.maxsize < 1 << 32


def _system_memory(root: Path) -> Iterator[Limit]:
    numbers = _numbers(_text(root / "proc/meminfo"), r"^(\w+):\s+(\d+) kB$", 1024)
    # WSL 1 and very old kernels do not add up what they would give.
    free = sum(numbers.get(kind, 0) for kind in ("MemFree", "Buffers", "Cached"))
    if room := numbers.get("MemAvailable", free):
        yield Limit("memory", "memory of this computer", room, numbers.get("MemTotal", 0))
    elif sys.platform == "darwin" and root == Path("/"):
        yield from _mac_memory(_command("/usr/sbin/sysctl", "-n", "hw.memsize"), _command("/usr/bin/vm_stat"))


def _mac_memory(size: str, vm_stat: str) -> Iterator[Limit]:
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    pages = _numbers(vm_stat, r"^Pages ([\w ]+):\s+(\d+)\.$", int(page[1]) if page else 4096)
    # What macOS gives up without swapping; "file-backed" pages are counted among these.
    room = sum(pages.get(kind, 0) for kind in ("free", "inactive", "speculative", "purgeable"))
    if room and size.strip().isdigit():
        yield Limit("memory", "memory of this computer", room, int(size))


def _cgroup_limits(root: Path) -> Iterator[Limit]:
    for group, unified in _groups(root, "memory"):
        yield from _unified(group) if unified else _version_1(group)


def _cpu_quotas(root: Path) -> Iterator[float]:
    for group, unified in _groups(root, "cpu"):
        names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [word for name in names for word in _text(group / name).split()]
        # Without a limit the first is `max`, or -1.
        if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
            yield int(words[0]) / int(words[1])


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Find our control group and all above it, and whether they are of version 2; their files differ."""
    mounts = [line.split() for line in _text(root / "proc/self/mountinfo").splitlines()]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = number == "0" and not controllers
        if not unified and controller not in controllers.split(","):
            continue
        for mount in mounts:
            kind, options = mount[mount.index("-") + 1], mount[-1].split(",")
            if kind != ("cgroup2" if unified else "cgroup") or not (unified or controller in options):
                continue
            top = root / mount[4].lstrip("/")
            # In a container the path is told from the host's point of view, and the mount begins in the middle of it.
            inner = path.removeprefix(mount[3].rstrip("/")) if path.startswith(mount[3].rstrip("/")) else ""
            here = top / inner.strip("/")
            while here.is_relative_to(top):
                yield here, unified
                here = here.parent


def _unified(group: Path) -> Iterator[Limit]:
    # Over `high` a group is only slowed down, but to a crawl.
    tops = [number for name in ("memory.max", "memory.high") if (number := _number(group / name)) is not None]
    used = _number(group / "memory.current")
    if tops and used is not None:
        yield _group_limit(group, min(tops), used, "active_file", "inactive_file")


def _version_1(group: Path) -> Iterator[Limit]:
    top, used = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    # Without a limit the file holds the largest number there is.
    if top is not None and used is not None and top < 1 << 60:
        yield _group_limit(group, top, used, "total_active_file", "total_inactive_file")


def _group_limit(group: Path, top: int, used: int, *cached: str) -> Limit:
    statistics = _numbers(_text(group / "memory.stat"), r"^(\w+) (\d+)$", 1)
    # Files in the page cache count as used, and are given up when memory is asked for.
    room = top - used + sum(statistics.get(name, 0) for name in cached)
    return Limit("memory", f"memory limit of the control group {group}", max(0, room), top)


def _process_limits(root: Path) -> Iterator[Limit]:
    # `ulimit -v`, `-d`; a 32-bit process has an end of its own.
    import resource

    taken = [int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in _text(root / "proc/self/statm").split()]
    of_size, of_data = (taken[0], taken[5]) if len(taken) > 5 else (0, 0)
    for kind, name, used in (("AS", "address space (ulimit -v)", of_size), ("DATA", "data (ulimit -d)", of_data)):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            top, _ = resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))
            if top != resource.RLIM_INFINITY:
                yield Limit("addresses" if kind == "AS" else "data", name, max(0, top - used), top)
    if is_32_bit():
        yield Limit("addresses", "address space of a 32-bit program", max(0, (3 << 30) - of_size), 3 << 30)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _numbers(text: str, pattern: str, unit: int) -> dict[str, int]:
    return {name: int(number) * unit for name, number in re.findall(pattern, text, flags=re.MULTILINE)}


def _command(*words: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, capture_output=True, text=True, timeout=2, check=True).stdout
    return ""
