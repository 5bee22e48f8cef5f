"""What was measured on a device and kept for later processes: one file per device, written by :func:`convkit.tune`.

It holds the tiles that won searches, by shape class, and the seconds of each backend, by class of problem. Files lie in
the folder that ``CONVKIT_TUNING`` names, else in ``convkit`` below the user's cache folder. They are read once, when a
tensor of their device is first computed with; without a file nothing changes. Deleting a file forgets.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

VARIABLE = "CONVKIT_TUNING"
#: Raised when kernels change so that old winners no longer tell: files of another number are not read.
GENERATION = 1
#: In a problem's text: any size.
ANY = "*"


@dataclass
class Winners:
    """The contents of a device's file."""

    tiles: dict[str, tuple[int, ...]] = field(default_factory=dict)  # shape class -> the fields of a tile or block
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # class of problem -> backend -> seconds

    def fastest(self, problem: str) -> str | None:
        """The backend that was fastest in a class of problems; None where none was measured.

        ``ANY`` in place of a size stands for all of them: it is the backend with the least sum over the classes that
        were measured, among those measured in each.
        """
        alike = [self.seconds[problem]] if problem in self.seconds else []
        if ANY in problem:
            pattern = re.compile(re.escape(problem).replace(re.escape(ANY), "[0-9]+"))
            alike = [seconds for p, seconds in self.seconds.items() if pattern.fullmatch(p)]
        names = [name for name in (alike[0] if alike else ()) if all(name in seconds for seconds in alike)]
        return min(names, key=lambda name: sum(seconds[name] for seconds in alike), default=None)


_NONE = Winners()
_known: dict[tuple[str, int | None], Winners] = {}


def path_of(device: torch.device) -> Path | None:
    """Where the winners of a device are kept; None: nowhere. Tensors on CPUs are a test's, which names a folder."""
    folder = os.environ.get(VARIABLE)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"
        folder = folder or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convkit")
    else:
        name = device.type
    if not folder:
        return None
    return Path(folder) / (re.sub(r"[^a-z0-9_]+", "-", name.lower()) + ".json")


def _read(path: Path) -> Winners:
    if not path.exists():
        return Winners()
    try:
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["generation"] != GENERATION:
            return Winners()
        tiles = {key: tuple(map(int, fields)) for key, fields in kept["tiles"].items()}
        seconds = {key: {n: float(s) for n, s in times.items()} for key, times in kept["seconds"].items()}
        return Winners(tiles, seconds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is not read ({error!r}): delete it, or run convkit.tune again", stacklevel=2)
        return Winners()


def winners(device: torch.device) -> Winners:
    """What is known of a device."""
    found = _known.get((device.type, device.index))
    if found is None:
        path = path_of(device)
        found = _NONE if path is None else _read(path)
        _known[device.type, device.index] = found
    return found


def keep(device: torch.device, found: Winners) -> Path | None:
    """Adds winners to what is known of a device and to its file; the file's path."""
    path = path_of(device)
    known = Winners() if path is None else _read(path)  # with what other processes kept meanwhile
    for mine in (winners(device), found):
        known.tiles.update(mine.tiles)
        known.seconds.update(mine.seconds)
    _known[device.type, device.index] = known
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        contents = {"generation": GENERATION, "tiles": known.tiles, "seconds": known.seconds}
        fresh.write_text(json.dumps(contents, indent=1, sort_keys=True))
        os.replace(fresh, path)  # whoever reads meanwhile sees the old file or the new one
    return path


def forget() -> None:
    """Reads files anew when they are next needed."""
    _known.clear()


def rounded(n: int) -> int:
    """n up to a power of two: what sizes count as in a class."""
    return 1 << max(n - 1, 0).bit_length()
