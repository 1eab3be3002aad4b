"""Facts about what is left of this machine, on `/proc` and `/sys` trees written for the purpose."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llava_cli import machine

MEMINFO = "MemTotal:       8000000 kB\nMemFree:         100000 kB\nMemAvailable:   5000000 kB\n"
V2 = ("0::/user/me\n", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
V1 = ("4:memory:/user/me\n0::/\n", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")
IN_DOCKER = ("4:memory:/docker/ab\n", "35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n")


def tree(root, groups=None, files=None):
    """Write a machine with 5.12 GB to spare; `files` is what its control groups say, path by path."""
    written = {"proc/meminfo": MEMINFO, **(files or {})}
    if groups is not None:
        written |= {"proc/self/cgroup": groups[0], "proc/self/mountinfo": groups[1]}
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def room(root):
    return machine.memory_room(root).room


def test_without_control_groups_the_system_says_what_is_available(tmp_path):
    assert 5_120_000_000 == room(tree(tmp_path))


def test_a_control_group_counts_its_page_cache_as_free(tmp_path):
    files = {
        "sys/fs/cgroup/user/me/memory.max": "4000000000\n",
        "sys/fs/cgroup/user/me/memory.current": "3000000000\n",
        "sys/fs/cgroup/user/me/memory.stat": "anon 1000000000\nactive_file 1500000000\ninactive_file 500000000\n",
    }
    assert 3_000_000_000 == room(tree(tmp_path, V2, files))


def test_a_group_above_ours_may_be_the_tightest(tmp_path):
    files = {
        "sys/fs/cgroup/user/me/memory.max": "max\n",
        "sys/fs/cgroup/user/me/memory.current": "1\n",
        "sys/fs/cgroup/user/memory.max": "2000000000\n",
        "sys/fs/cgroup/user/memory.current": "500000000\n",
    }
    limit = machine.memory_room(tree(tmp_path, V2, files))
    assert (1_500_000_000, True) == (limit.room, limit.name.endswith("/user"))


def test_a_group_is_slowed_down_before_its_hard_limit(tmp_path):
    files = {
        "sys/fs/cgroup/user/me/memory.max": "4000000000\n",
        "sys/fs/cgroup/user/me/memory.high": "1000000000\n",
        "sys/fs/cgroup/user/me/memory.current": "0\n",
    }
    assert 1_000_000_000 == room(tree(tmp_path, V2, files))


@pytest.mark.parametrize(("groups", "where"), [(V1, "user/me/"), (IN_DOCKER, "")])
def test_the_first_version_of_control_groups_is_read_too(tmp_path, groups, where):
    files = {
        f"sys/fs/cgroup/memory/{where}memory.limit_in_bytes": "3000000000\n",
        f"sys/fs/cgroup/memory/{where}memory.usage_in_bytes": "1000000000\n",
        f"sys/fs/cgroup/memory/{where}memory.stat": "total_inactive_file 200000000\ntotal_active_file 0\n",
    }
    assert 2_200_000_000 == room(tree(tmp_path, groups, files))


@pytest.mark.parametrize("no_limit", ["9223372036854771712\n", "", "nonsense\n"])
def test_what_is_no_limit_is_none(tmp_path, no_limit):
    files = {
        "sys/fs/cgroup/memory/user/me/memory.limit_in_bytes": no_limit,
        "sys/fs/cgroup/memory/user/me/memory.usage_in_bytes": "1000000000\n",
    }
    assert 5_120_000_000 == room(tree(tmp_path, V1, files))


def test_a_system_that_does_not_add_up_what_is_available_is_added_up(tmp_path):
    told = "MemTotal: 8000000 kB\nMemFree: 1000000 kB\nBuffers: 100 kB\nCached: 2000000 kB\n"
    assert 1024 * 3_000_100 == room(tree(tmp_path, files={"proc/meminfo": told}))


CPU_V1 = (
    "5:cpu,cpuacct:/docker/ab\n",
    "36 31 0:33 /docker/ab /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
)


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (V2, {"user/cpu.max": "60000 100000\n"}),
        (CPU_V1, {"cpu,cpuacct/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_a_container_uses_the_cores_it_is_given_time_of(tmp_path, groups, files):
    assert 1 == machine.physical_cores(tree(tmp_path, groups, {f"sys/fs/cgroup/{name}": files[name] for name in files}))


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        (V2, {"user/me/cpu.max": "max 100000\n"}),
        (CPU_V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}),
        (V2, {"user/me/cpu.max": "nonsense\n"}),
    ],
)
def test_a_container_without_a_quota_uses_all_cores(tmp_path, groups, files, monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    monkeypatch.delattr(machine.os, "sched_getaffinity", raising=False)
    assert 6 == machine.physical_cores(tree(tmp_path, groups, {f"sys/fs/cgroup/{name}": files[name] for name in files}))


def test_a_system_that_says_nothing_has_no_limit_of_memory(tmp_path):
    assert None is machine.memory_room(tmp_path)


def test_ulimit_is_a_limit_of_addresses_and_of_data():
    code = (
        "from llava_cli import machine\n"
        "found = [limit for limit in machine.limits() if limit.of != 'memory']\n"
        "print([(limit.of, limit.total, 0 < limit.room < limit.total) for limit in found])\n"
    )

    def tighten():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=tighten)
    assert f"[('addresses', {4 << 30}, True), ('data', {2 << 30}, True)]\n" == done.stdout


def test_macos_tells_what_it_would_give_up():
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:      1000.\nPages active:    9999.\n"
        "Pages inactive:  2000.\nPages speculative:  300.\nPages purgeable:  40.\n"
    )
    (limit,) = machine._mac_memory("17179869184\n", text)
    assert (3340 * 16384, 17179869184) == (limit.room, limit.total)


def test_this_machine_has_cores_and_a_name():
    assert machine.physical_cores() >= 1
    assert machine.processor()
    assert Path("/proc").exists() <= (machine.memory_room() is not None)
