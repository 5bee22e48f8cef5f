"""One wheel, several torch versions: builds it once, audits it, and runs tools/smoke.py in each of them.

Each version gets an environment of its own under build/abi, with torch as PyPI has it (its CUDA build, several
gigabytes) or from --index (PyTorch's site names one with CPU builds).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "abi"
AUDIT = "torch-abi-audit==0.3.0"


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=FOLDER)


def build_wheel() -> Path:
    folder = FOLDER / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    options = ("--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("convkit-*-py3-none-*.whl")
    return wheel


def environment(name: str, *packages: str, index: str = "") -> Path:
    """The interpreter of an environment with these packages, made if it is not there."""
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", FOLDER / name)
    extra = ("--extra-index-url", index) if index else ()
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", *extra, *packages)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=["2.10.0", "newest"], help="torch versions, or newest")
    parser.add_argument("--index", default="", help="one more package index for torch")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wheel = build_wheel()

    audit = environment("audit", AUDIT)
    unpacked = FOLDER / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    shutil.unpack_archive(wheel, unpacked, "zip")
    run(audit.parent / "torch-abi-audit", "--check", "torch", unpacked / "convkit" / "convkit_ops.so")

    for version in arguments.versions:
        requirement = "torch" if version == "newest" else f"torch=={version}"
        python = environment(f"torch-{version}", requirement, index=arguments.index)
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
        run(python, "-W", "ignore:Failed to initialize NumPy", ROOT / "tools" / "smoke.py")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(error.cmd)}")
