"""Drives CMake once (tools/native_build.py) and puts the library it makes into the package."""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "tools"))
import native_build


class BuildLibrary(build_ext):
    """Builds convkit_ops with CMake; it is an operator library for torch, not a Python extension."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        library = native_build.build(Path(self.build_temp).resolve() / "cmake")
        native_build.install(library, Path(self.get_ext_fullpath(ext.name)))


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: the library sees torch's stable C interface and no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[Extension("convkit.convkit_ops", sources=[])],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
