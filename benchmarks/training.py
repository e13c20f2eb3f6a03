"""The training kernels beside NumPy, PyTorch, Opacus and scikit-learn: one thread each, in one process, interleaved.

``make bench-setup`` installs the peers into ``.bench-venv``; without one its cases are left out, and a line on stderr
says so. ``python -m benchmarks.training NAME...`` runs some of the cases: mlp, ecg, image, gru, import.

``ratio`` is ours / peer in time, ``aim`` what it should be at most (for the share of the peak: at least). Before
anything is timed both sides make the same steps from the same weights; where they do not end within 1e-3 of each other
the case is void and raises. A step includes gathering the batch's rows; ours is one ``Network.train`` over several
steps, the peers are loops in Python, which is how each is used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
# What would slow a peer down or give it more than one thread, and what chooses OpenBLAS's kernels instead of the core.
_UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_ONE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def cases(*names: str) -> Iterator[dict[str, Any]]:
    """One dict per case: case, ours, peer, ratio, unit, peer_name, aim.

    OpenBLAS reads its settings when it is loaded, hence a process of its own. Raises RuntimeError where that fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
    environment |= dict.fromkeys(_ONE, "1")
    command = [sys.executable, "-m", "benchmarks._side_by_side", *names]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise RuntimeError(f"the measuring process ended with {process.returncode}; it says why above")


if __name__ == "__main__":
    for case in cases(*sys.argv[1:]):
        print(json.dumps(case), flush=True)
