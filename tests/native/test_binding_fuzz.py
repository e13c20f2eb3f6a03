"""No argument, however wrong, gets more than an error in words out of the kernels: a part of `make fuzz-bindings`."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("fuzz_bindings.py")


@pytest.mark.parametrize("seed", [1, 2])
def test_wrong_arguments_are_refused_and_nothing_else_happens(seed, tmp_path):
    """In a process of its own, which a crash would end; the last line of a failure says how to repeat it."""
    progress = tmp_path / "call"
    done = subprocess.run(
        [sys.executable, PROGRAM, "--seed", str(seed), "--calls", "1500", "--progress", progress],
        capture_output=True,
        text=True,
        check=False,
    )
    last = progress.read_text() if progress.exists() else "none"
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\nlast call begun: {last}"
