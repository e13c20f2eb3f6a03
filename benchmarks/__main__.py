"""Run one benchmark, or all: a line per case with ours, the peer's, the ratio and the unit.

A benchmark is a module of this package with ``cases() -> Iterator[dict]``; each dictionary has the keys case, ours,
peer, ratio (ours / peer unless the case says otherwise), unit and peer_name. What has no peer to measure leaves peer
and ratio out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run ``python -m benchmarks ARGV``."""
    names = sorted(
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if module.name[0] != "_"
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=["all", *names])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args(argv)
    for name in names if arguments.name == "all" else [arguments.name]:
        for case in importlib.import_module(f"benchmarks.{name}").cases():
            print(json.dumps(case) if arguments.json else _line(case), flush=True)
    return 0


def _line(case: dict[str, object]) -> str:
    text = f"{case['case']}: {_number(case['ours'])} {case['unit']}"
    if case.get("peer") is not None:
        text += f"; {case.get('peer_name', 'peer')}: {_number(case['peer'])}; ratio {_number(case['ratio'])}"
    return text


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
