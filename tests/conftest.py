"""One fixture over all implementations, and memory in which nothing is zero by chance."""

from __future__ import annotations

import ctypes
import os
import zlib
from collections.abc import Iterator

import pytest
import torch

from convkit import backends
from convkit.backends.base import Backend
from convkit.testing.simt import Simt
from tests.on_device import OnDevice, lighten_interpreter
from tests.places import no_gpu

_M_PERTURB, _M_MMAP_THRESHOLD = -6, -3


def pytest_configure(config: pytest.Config) -> None:
    if not torch.cuda.is_available():
        # Read once, when the kernels are defined: they then run on CPU tensors. Not for the processes that tests start.
        os.environ["TRITON_INTERPRET"] = "1"
        if backends.get("triton").available() is None:
            lighten_interpreter()
        del os.environ["TRITON_INTERPRET"]
    # glibc then fills fresh memory with 0x7f bytes (3.4e38 as float32, NaN as float16) and serves all but huge
    # blocks from the heap, where this applies: an output element that a kernel forgets shows, and so does
    # scratch memory that it reads before writing. tests/test_teeth.py checks that this works.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_PERTURB, 0x80)
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    torch.set_num_threads(1)  # tests run in parallel processes; tests/test_threads.py sets its own numbers


def pytest_report_header(config: pytest.Config) -> str | None:
    reason = no_gpu()
    return f"gpu: {reason}; tests marked gpu do not run" if reason else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", type=int, default=1, metavar="N", help="run one test in N, chosen by name")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (reason := no_gpu()) is not None:
        # Thousands of cases: skipped where they were asked for, else left out.
        marked = [item for item in items if item.get_closest_marker("gpu") is not None]
        if config.getoption("markexpr"):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))
        else:
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item.get_closest_marker("gpu") is None]
    # By name, not by position: parameters follow each other in cycles, and a step could pick one of them only.
    share = config.getoption("share")
    dropped = [item for item in items if zlib.crc32(item.nodeid.encode()) % share]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if not zlib.crc32(item.nodeid.encode()) % share]


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    """What a test draws depends on its name, not on the tests that ran before it in its process."""
    seed = zlib.crc32(request.node.nodeid.encode())
    # torch.manual_seed takes a millisecond: it notes the call, and where it came from, for devices that are not there.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@pytest.fixture(scope="session")
def reference() -> Backend:
    """The oracle."""
    return backends.get("reference")


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The implementations change fastest: what the oracle computed for one of them is kept for the next."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", ["native", "reference"], indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each implementation in turn."""
    implementation = backends.get(request.param)
    assert implementation.available() is None, implementation.available()
    return implementation


@pytest.fixture(scope="session")
def simt() -> Simt:
    """The GPU kernels on the emulator."""
    implementation = Simt()
    if (reason := implementation.available()) is not None:
        pytest.skip(reason)
    return implementation


@pytest.fixture
def exact_float32() -> Iterator[None]:
    """Neither convolutions nor products of matrices on a GPU round float32 to TF32, which PyTorch allows the former."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # settable even after torch froze the global flags
        yield
    torch.backends.cuda.matmul.allow_tf32 = matmul


@pytest.fixture
def triton(exact_float32: None) -> Backend:
    backend = backends.get("triton")
    if (reason := backend.available()) is not None:
        pytest.skip(reason)
    return OnDevice(backend)
