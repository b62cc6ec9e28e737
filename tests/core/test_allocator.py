"""Freed memory stays with the process when it was told so, and only then."""

import ctypes
import platform
import subprocess
import sys

import pytest

from clip2clap import keep_freed_memory

USERS_OWN = {
    "MALLOC_MMAP_MAX_": "65536",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
    "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072",
}
BIG = 100 * 2**20
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt"
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in USERS_OWN:
        monkeypatch.delenv(name, raising=False)


def page_faults_of_a_second_buffer(first: str) -> int:
    """Run code in a process of its own, then fill a big buffer twice, freeing it in between."""
    code = f"""
import resource
{first}
bytearray(b"1") * {BIG}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(b"1") * {BIG}
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


@needs_glibc
def test_a_freed_buffer_is_used_again_without_asking_the_kernel() -> None:
    pages = BIG // 4096
    assert page_faults_of_a_second_buffer("") > pages // 2
    keep = "from clip2clap import keep_freed_memory\nassert keep_freed_memory()"
    assert page_faults_of_a_second_buffer(keep) < pages // 100


@needs_glibc
def test_a_process_in_low_memory_returns_buffers_as_large_as_those_freed_before() -> None:
    size = 20 * 2**20  # the largest that glibc would keep is 32 MiB
    again = f"bytearray(b'1') * {size}\nbytearray(b'1') * {size}"
    returns = "from clip2clap.core.allocator import return_freed_memory, keep_freed_memory"
    returns += f"\nkeep_freed_memory()\nassert return_freed_memory()\n{again}"
    pages = BIG // 4096
    assert page_faults_of_a_second_buffer(returns) > pages // 2
    code = f"{returns}\nkept = [bytearray(b'1') * {size} for _ in range(9)]\ndel kept\n"
    code += "print(open('/proc/self/statm').read().split()[1])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) * 4096 < 3 * size


@needs_glibc
def test_the_command_line_keeps_memory_and_importing_the_library_does_not() -> None:
    pages = BIG // 4096
    command = (
        "from clip2clap.cli.app import main\ntry: main(['--version'])\nexcept SystemExit: pass"
    )
    assert page_faults_of_a_second_buffer(command) < pages // 100
    library = "import clip2clap.embeddings, clip2clap.cli"
    assert page_faults_of_a_second_buffer(library) > pages // 2


@pytest.mark.parametrize("name", USERS_OWN)
def test_a_setting_of_the_user_s_own_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, USERS_OWN[name])
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert keep_freed_memory() is False


def test_nothing_is_done_where_the_c_library_has_no_mallopt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert keep_freed_memory() is False


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_nothing_is_done_on_other_systems(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert keep_freed_memory() is False


def test_it_is_false_where_the_c_library_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def mallopt(self, parameter: int, value: int) -> int:
            return 0

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Refusing())
    assert keep_freed_memory() is False
