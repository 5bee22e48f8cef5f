"""The command line: ``python -m convkit info | check | demo | bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; the exit status is 0 if all is well, 1 if a check failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m convkit", description="Convolution and pooling for PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_info(commands)
    _add_check(commands)
    _add_demo(commands)
    _add_bench(commands)
    options, rest = parser.parse_known_args(arguments)
    if options.command == "bench":
        return _bench(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options.run(options)


def _add_info(commands: argparse._SubParsersAction) -> None:
    info = commands.add_parser("info", help="versions, instruction sets, backends; for each missing one the reason")
    info.set_defaults(run=_info)


def _info(options: argparse.Namespace) -> int:
    from convkit import info

    sections = info.collect()
    width = max(len(name) for section in sections.values() for name in section)
    for title, section in sections.items():
        print(f"{title}\n" + "\n".join(f"  {name.ljust(width)}  {value}" for name, value in section.items()) + "\n")
    return 0


def _add_check(commands: argparse._SubParsersAction) -> None:
    from convkit import backends
    from convkit.check import DTYPES

    check = commands.add_parser("check", help="every operation x backend x dtype against the float64 oracle")
    for option, choices in (("op", backends.RAW_OPS), ("backend", backends.names()), ("dtype", tuple(DTYPES))):
        check.add_argument(f"--{option}", action="append", choices=choices, help="only this one (may be repeated)")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from convkit import backends
    from convkit.check import DTYPES, check, text
    from convkit.terminal import Progress

    ops, names = options.op or backends.RAW_OPS, options.backend or backends.names()
    dtypes = options.dtype or tuple(DTYPES)
    progress = Progress(len(ops) * len(names) * len(dtypes))
    verdicts = list(check(ops, names, dtypes, progress.step))
    progress.close()
    print(text(verdicts))
    failed = sum(v.failed for v in verdicts)
    ran = sum(v.worst is not None for v in verdicts)
    print(f"\n{ran - failed} of {ran} combinations agree with the oracle.")
    return 1 if failed else 0


def _add_demo(commands: argparse._SubParsersAction) -> None:
    demo = commands.add_parser("demo", help="train a LeNet-5, convert a ResNet-18, filter photographs")
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="folder for the pictures")
    demo.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    demo.add_argument("--threads", type=int, default=None, help="threads of PyTorch and convkit")
    demo.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> int:
    try:
        from convkit.demo.run import run
    except ModuleNotFoundError as error:
        print(f"The demo needs {error.name}: pip install 'convkit[demo]' (in a clone: make demo).", file=sys.stderr)
        return 2
    return run(options.out, quick=options.quick, threads=options.threads)


def _add_bench(commands: argparse._SubParsersAction) -> None:
    commands.add_parser("bench", help="python -m bench.run, speed beside PyTorch (in a clone)", add_help=False)


def _bench(rest: list[str]) -> int:
    try:
        from bench import run
    except ModuleNotFoundError as error:
        print(
            f"No module {error.name}: the benchmark is run in a clone of the project, from its root.", file=sys.stderr
        )
        return 2
    return run.main(rest)


if __name__ == "__main__":
    sys.exit(main())
