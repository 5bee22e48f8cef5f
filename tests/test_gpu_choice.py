"""What is decided about GPUs without one: which code runs where, what is refused with which words, and the host's part
of a launch."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from convkit import backends
from convkit.backends import RAW_OPS, gpu
from convkit.build_info import LIBRARY, build_info
from convkit.problem import ConvSpec, pack_conv
from convkit.testing.simt import Simt

ARCHS = ("sm_80", "compute_80", "sm_90a", "sm_100", "sm_120")
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "code"),
    [
        ((8, 0), "machine code"),
        ((8, 9), "machine code"),
        ((9, 0), "machine code"),
        ((10, 3), "machine code"),
        ((11, 0), "PTX"),
        ((12, 1), "machine code"),
        ((13, 0), "PTX"),
        ((7, 5), None),
    ],
)
def test_code_for_a_gpu(capability: tuple[int, int], code: str | None) -> None:
    assert gpu.code_for(ARCHS, capability) == code


def test_letters_tie_code_to_a_gpu() -> None:
    assert gpu.code_for(("sm_90a", "compute_90a"), (9, 1)) is None
    assert gpu.code_for(("compute_90a",), (9, 0)) == "PTX"
    assert gpu.code_for(("sm_100f",), (10, 3)) == "machine code"
    assert gpu.code_for(("compute_100f",), (12, 0)) is None
    assert gpu.code_for(("sm_86",), (8, 0)) is None
    assert gpu.code_for((), (9, 0)) is None


def test_refusals_name_what_is_there_and_what_is_needed() -> None:
    assert gpu.misfit(ARCHS, "13.0", (9, 0), 13000) is None
    assert gpu.misfit(ARCHS, "13.2", (9, 0), 13000) is None  # machine code: any driver of the major version
    assert gpu.misfit(ARCHS, "13.2", (11, 0), 13020) is None
    assert gpu.misfit(ARCHS, "13.0", (7, 5), 13000) == (
        "compute capability 7.5, and the library has code for sm_80, compute_80, sm_90a, sm_100, sm_120"
    )
    needed = "and the library needs one for CUDA 13"
    assert gpu.misfit(ARCHS, "13.2", (11, 0), 13000) == f"the NVIDIA driver is for CUDA 13.0, {needed}.2"
    assert gpu.misfit(ARCHS, "13.2", (9, 0), 12080) == f"the NVIDIA driver is for CUDA 12.8, {needed}.0"
    assert gpu.misfit(ARCHS, "13.2", (9, 0), 0) == f"the NVIDIA driver is missing, {needed}.0"


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what a machine without a GPU answers")
def test_a_gpu_that_is_not_there_is_refused_with_words() -> None:
    reason = backends.get("native").supports("conv_fprop", torch.float32, GPU, None)
    if build_info()["cuda_archs"]:
        assert reason in ("this torch has no CUDA", "torch finds no CUDA device")
    else:
        assert reason == "the library is built without GPU kernels"
    assert backends.resolve("conv_fprop", torch.float32, GPU).name == "reference"
    with pytest.raises(RuntimeError, match="backend 'native', chosen by backend='native', cannot run conv_fprop"):
        backends.resolve("conv_fprop", torch.float32, GPU, backend="native")


def usable_everywhere(monkeypatch: pytest.MonkeyPatch, simt: Simt) -> Simt:
    """The emulator's library in the place of one with GPU kernels, on a machine whose GPUs run them."""
    monkeypatch.setattr(gpu, "unusable", lambda library, device: None)
    names = {"cpu": ("conv_direct", "conv_rows"), "cuda": ("conv_tiles", "conv_direct")}
    monkeypatch.setattr(simt, "_names", names)
    return simt


@pytest.fixture
def simt() -> Simt:
    backend = Simt()
    if (reason := backend.available()) is not None:
        pytest.skip(reason)
    return backend


def test_kernels_on_a_gpu(monkeypatch: pytest.MonkeyPatch, simt: Simt) -> None:
    assert set(gpu.operations(simt.binary)) <= set(RAW_OPS)
    usable_everywhere(monkeypatch, simt)
    assert simt.supports("avg_pool", torch.bfloat16, GPU, None) is None
    assert simt.supports("pool_indices", torch.uint8, GPU, None) is None
    assert (
        simt.supports("conv_fprop", torch.complex64, GPU, None) == "no conv_fprop kernel for torch.complex64 on a GPU"
    )
    monkeypatch.setattr(gpu, "operations", lambda library: ("avg_pool",))
    assert simt.supports("max_pool", torch.float32, GPU, None) == "no GPU kernel for max_pool"


def test_algorithms_have_numbers_per_device(monkeypatch: pytest.MonkeyPatch, simt: Simt) -> None:
    usable_everywhere(monkeypatch, simt)
    assert simt.algorithms() == ("conv_direct", "conv_rows", "conv_tiles")
    one = ConvSpec((1,), (0,), (0,), (1,))
    for number, on_cpu, on_gpu in ((1, True, True), (2, True, False), (3, False, True)):
        spec = one._replace(algorithm=number)
        refused = f"algorithm {simt.algorithms()[number - 1]!r} has no kernel for {{}} tensors"
        assert simt.supports("conv_fprop", torch.float32, torch.device("cpu"), spec) == (
            None if on_cpu else refused.format("cpu")
        )
        assert simt.supports("conv_fprop", torch.float32, GPU, spec) == (None if on_gpu else refused.format("cuda"))

    def packed(number: int, dtype: torch.dtype = torch.bfloat16) -> list[int]:
        on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype)
        return simt._conv_list(one._replace(algorithm=number), False, on_gpu)

    assert packed(0) == pack_conv(one, False)
    assert packed(1) == pack_conv(one._replace(algorithm=2), False)
    assert packed(3) == pack_conv(one._replace(algorithm=1), False)
    with pytest.raises(RuntimeError, match="conv_rows has no GPU kernel"):
        packed(2)
    for allowed in (True, False):  # TF32 concerns float32 alone, and is PyTorch's to allow
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed):
            assert packed(0) == pack_conv(one, False)
            assert packed(0, torch.float32) == pack_conv(one._replace(allow_tf32=allowed), False)


@pytest.mark.parametrize("namespace", ["convkit", "convkit_simt"])
def test_tensors_of_two_devices_are_refused(namespace: str, simt: Simt) -> None:
    """Where the dispatcher lets them through: with tensors of a GPU beside those of the CPU, say."""
    x, w = torch.ones(1, 1, 4), torch.ones(1, 1, 2, device="meta")
    spec = pack_conv(ConvSpec((1,), (0,), (0,), (1,)), False)
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    fprop = getattr(torch.ops, namespace).conv_fprop.default
    for tensors, found in (((x, w, None), "cpu and meta"), ((x, torch.ones(1, 1, 2), w[0, 0, :1]), "cpu and meta")):
        with pytest.raises(RuntimeError, match=f"^Expected all tensors to be on the same device.* {found}!"):
            fprop.redispatch(cpu, *tensors, None, None, spec, 0.0)


# --- the host's part of a launch ----------------------------------------------------------------------------------


def host(simt: Simt, which: int, count: int = 8) -> tuple[str | None, torch.Tensor]:
    run = ctypes.CDLL(str(simt.binary)).convkit_simt_host
    run.restype, run.argtypes = ctypes.c_char_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    x, y = torch.ones(count), torch.zeros(count)
    reason = run(which, x.data_ptr(), y.data_ptr(), count)
    return (reason.decode() if reason else None), y


def test_an_operation_without_a_kernel_refuses(simt: Simt) -> None:
    assert host(simt, 0)[0] == "this operation has no GPU kernel"


def test_a_workspace_holds_nothing_of_use(simt: Simt) -> None:
    reason, y = host(simt, 1)
    assert reason is None
    assert bool(y.isnan().all())


def test_grids_that_a_gpu_does_not_run(simt: Simt) -> None:
    """None at all is nothing to do; too large a one is refused here as there."""
    assert host(simt, 2)[0] is None
    assert host(simt, 3)[0] == host(simt, 4)[0] == "a grid larger than a GPU runs"


# --- the library ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils (readelf) are not installed")
def test_the_library_needs_no_cuda_library() -> None:
    """With GPU kernels or without: it loads in a torch without CUDA, and without a driver."""
    shown = subprocess.run(["readelf", "-d", LIBRARY], check=True, capture_output=True, text=True).stdout
    needed = re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", shown)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if re.match(r"lib(cuda|nv|torch_cuda|c10_cuda)", name)]


def test_what_the_library_says_of_its_gpu_part_agrees() -> None:
    info: dict[str, Any] = build_info()
    assert bool(info["cuda"]) == bool(info["cuda_archs"]) == bool(gpu.operations(LIBRARY))
    assert all(re.fullmatch(r"(sm|compute)_\d+[af]?", arch) for arch in info["cuda_archs"])
