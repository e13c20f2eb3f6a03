"""The process in which ``benchmarks.training`` measures: writes a JSON object a case on standard output."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._nets import (
    CLIP_L1,
    CLIP_L2,
    ECG,
    GRU,
    IMAGE,
    MLP,
    RATE,
    Job,
    Net,
    Ours,
    Trainer,
    agree,
    interleaved_s,
    ratio,
)
from benchmarks._numpy_training import NumpyMlp
from edge_runtime import _kernels
from edge_runtime.privacy.dpsgd import PrivateSgd
from edge_runtime.privacy.laplace import LaplaceEvent

Case = dict[str, Any]
_VENV = Path(__file__).parent.parent / ".bench-venv"
_PEERS = _VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


def main(names: list[str]) -> int:
    sys.path.append(str(_PEERS))  # after our own environment, so that NumPy is the one that fedge runs on
    say(f"NumPy {np.__version__} with {_blas()}; fedge with {_kernels.isa}")
    groups: dict[str, Callable[[], Iterator[Case]]] = {
        "mlp": mlp,
        "ecg": lambda: network(ECG, plain_aim=0.6),
        "image": lambda: network(IMAGE, plain_aim=0.5),
        "gru": lambda: network(GRU, plain_aim=0.4),
        "import": footprint,
    }
    for name in names or groups:
        if name not in groups:
            say(f"there is no {name!r}; there are: {', '.join(groups)}")
            return 2
        for case in groups[name]():
            print(json.dumps(case), flush=True)
    return 0


def say(text: str) -> None:
    print(f"training: {text}", file=sys.stderr)


def _blas() -> str:
    """Which of OpenBLAS's kernels NumPy runs, where threadpoolctl is there to ask."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return "an unknown BLAS (threadpoolctl is not installed)"
    np.ones((2, 2)) @ np.ones((2, 2))
    found = importlib.import_module("threadpoolctl").threadpool_info()
    return ", ".join(f"{one['internal_api']} {one.get('architecture')}, {one['num_threads']} thread" for one in found)


@functools.cache
def _present(*modules: str) -> bool:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    for module in missing:
        say(f"no {module}: its cases are left out; `make bench-setup` installs it")
    return not missing


def _case(name: str, times: Mapping[str, list[float]], steps: int, ours: str, peer: str, aim: float | None) -> Case:
    """Milliseconds a step, medians; the ratio is the median of the rounds' ratios."""
    case: Case = {
        "case": f"{name} ({_kernels.isa})",
        "ours": statistics.median(times[ours]) / steps * 1e3,
        "peer": statistics.median(times[peer]) / steps * 1e3,
        "ratio": ratio(times, ours, peer),
        "unit": "ms",
        "peer_name": peer,
    }
    return case if aim is None else case | {"aim": aim}


# ---------------------------------------------------------------------------------------------------------- the MLP


def mlp() -> Iterator[Case]:
    """Plain, clipped in L2, and in L1 with exact Laplace noise; then what of the core's peak is used."""
    torch_there, sklearn_there = _present("torch", "opacus"), _present("sklearn")
    for batch, aim, clipped_aim in ((64, 1.0, 1.15), (32, 0.8, None)):
        job = Job.of(MLP, batch)
        name = f"{MLP.name}, batch {batch}"
        plain: dict[str, Trainer] = {"ours": Ours(job), "NumPy by hand": NumpyMlp(job)}
        ghost = _ghost(job)
        if torch_there:
            from benchmarks._torch_training import TorchTrainer

            plain["PyTorch"] = TorchTrainer(job)
        if sklearn_there and batch == 64:
            from benchmarks._torch_training import SklearnMlp

            plain["scikit-learn"] = SklearnMlp(job)
        agree(job, plain, reference="ours")
        agree(job, ghost, reference="ours, clipped")
        times, own = interleaved_s(plain | ghost), _own(job, ghost["ours, clipped"], rounds=41)
        for peer in list(plain)[1:]:
            yield _case(f"{name}, plain step", times, MLP.steps, "ours", peer, aim if peer == "NumPy by hand" else None)
        yield _case(f"{name}, reproducible over fast", own, MLP.steps, "ours, reproducible", "ours", None)
        yield _case(f"{name}, L2-clipped over plain", own, MLP.steps, "ours, clipped", "ours", clipped_aim)
        for peer in list(ghost)[1:]:
            yield _case(f"{name}, L2-clipped step", times, MLP.steps, "ours, clipped", peer, None)
    yield from _laplace(Job.of(MLP, 64))
    yield from _peak(Job.of(MLP, 256))


def _own(job: Job, clipped: Trainer, *, rounds: int) -> dict[str, list[float]]:
    """Our own kinds of step among themselves: after a peer, whose memory is more, a step pays for its caches."""
    sides = {"ours": Ours(job), "ours, clipped": clipped, "ours, reproducible": Ours(job, reproducible=True)}
    return interleaved_s(sides, rounds=rounds)


def _ghost(job: Job) -> dict[str, Trainer]:
    sides: dict[str, Trainer] = {"ours, clipped": Ours(job, clip=CLIP_L2)}
    if job.net is MLP:
        sides["NumPy, ghost norms"] = NumpyMlp(job, clip=CLIP_L2)
    if _present("torch", "opacus"):
        from benchmarks._torch_training import TorchTrainer

        sides["Opacus, ghost"] = TorchTrainer(job, dp="ghost")
        sides["Opacus, hooks"] = TorchTrainer(job, dp="hooks")
    return sides


class OursPrivate:
    """``PrivateSgd``: Poisson batches of 64 expected, clipped in L1, exact Laplace noise on every parameter for an
    epsilon of 2 a step (a smaller one takes a grid that no reservoir serves).

    ``ahead``: out of a reservoir that has filled before the run, which is what an idle core is for.
    """

    def __init__(self, job: Job, *, ahead: bool = False) -> None:
        self._job, self._net, self._params = job, job.net.native(), job.start.copy()
        self._rng, self._draws = _kernels.SystemRng(), job.net.steps * len(job.start)
        self._mechanism = PrivateSgd.for_epsilon(
            2.0, clip_norm=CLIP_L1, parameters=len(job.start), examples=len(job.x), batch_size=job.batch
        )
        self._reservoir = None
        if ahead:  # room for more than the draws: it fills in pieces of 8192
            assert isinstance(self._mechanism.noise, LaplaceEvent)
            self._reservoir = _kernels.NoiseReservoir(self._mechanism.noise.log2_scale, self._draws + 8192)

    def reset(self) -> None:
        self._params[:] = self._job.start
        while self._reservoir is not None and self._reservoir.ready < self._draws:
            time.sleep(0.001)

    def run(self) -> None:
        job = self._job
        settings: dict[str, Any] = {"steps": job.net.steps, "learning_rate": RATE}
        if self._reservoir is not None:
            settings["reservoir"] = self._reservoir
        self._params, _ = self._mechanism.train(self._net, self._params, job.x, job.y, self._rng, **settings)

    def params(self) -> NDArray[np.float32]:
        return self._params.copy()


def _laplace(job: Job) -> Iterator[Case]:
    """What the noise is added to has to agree; the noise is drawn, so the rest cannot.

    Time is that of the thread that trains: the reservoir's own belongs to another core.
    """
    without: dict[str, Trainer] = {
        "ours": Ours(job, clip=CLIP_L1, norm="l1"),
        "NumPy": NumpyMlp(job, clip=CLIP_L1, norm="l1"),
    }
    agree(job, without, reference="ours")
    peer = "NumPy, unsafe floats"
    sides: dict[str, Trainer] = {
        "ours": Ours(job),
        "ours, private": OursPrivate(job),
        "ours, noise made ahead": OursPrivate(job, ahead=True),
        peer: NumpyMlp(job, clip=CLIP_L1, norm="l1", noise=CLIP_L1),
    }
    times = interleaved_s(sides, clock=time.thread_time)
    name = f"{MLP.name}, batch 64, L1-clipped + Laplace on {len(job.start):,}"
    yield _case(name, times, MLP.steps, "ours, private", peer, 0.6)
    yield _case(f"{name}, over plain", times, MLP.steps, "ours, private", "ours", None)
    yield _case(f"{name}, noise made ahead over plain", times, MLP.steps, "ours, noise made ahead", "ours", 1.4)


class PeakProbe:
    """``peak.c`` compiled for this core. Raises RuntimeError where there is no C compiler."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise RuntimeError("no cc")
        library, source = folder / "peak.so", Path(__file__).with_name("peak.c")
        subprocess.run(
            [compiler, "-O2", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-o", library, source],
            check=True,
        )
        self._run = ctypes.CDLL(str(library)).peak_run
        self._run.restype, self._run.argtypes = ctypes.c_double, (ctypes.c_long, ctypes.POINTER(ctypes.c_float))
        self.operations = 0.0

    def reset(self) -> None: ...

    def run(self) -> None:
        self.operations = self._run(1_000_000, ctypes.byref(ctypes.c_float()))

    def params(self) -> NDArray[np.float32]:
        raise NotImplementedError


def _peak(job: Job) -> Iterator[Case]:
    """The share of the peak that a step's products come to, though the step does more than its products.

    The peak is measured by fused multiply-adds on registers, beside the steps, since the clock moves. A large product
    of NumPy's would be a lower peak, and a share of it flattering.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            probe = PeakProbe(Path(folder))
        except (RuntimeError, OSError, subprocess.CalledProcessError) as fault:
            say(f"the core's peak is not measured ({fault}): it takes a C compiler, cc")
            return
        times = interleaved_s({"ours": Ours(job), "NumPy by hand": NumpyMlp(job), "peak": probe})
    widths = [job.net.shape[0], *(layer["units"] for layer in job.net.layers if layer["type"] == "dense")]
    products = [below * above for below, above in itertools.pairwise(widths)]
    operations = 2 * job.batch * (3 * sum(products) - products[0])
    seconds = {name: statistics.median(runs) for name, runs in times.items()}
    peak = probe.operations / seconds["peak"]
    for side, aim in (("ours", 0.6), ("NumPy by hand", None)):
        rate = operations * job.net.steps / seconds[side]
        case: Case = {
            "case": f"{MLP.name}, batch 256, plain step: {side} ({_kernels.isa})",
            "ours": rate / 1e9,
            "peer": peak / 1e9,
            "ratio": probe_share(times, operations * job.net.steps, probe.operations, side),
            "unit": "GFLOP/s",
            "peer_name": "the core's single-precision peak",
        }
        yield case if aim is None else case | {"aim": aim}


def probe_share(times: Mapping[str, list[float]], operations: float, at_peak: float, side: str) -> float:
    """Median over the rounds of operations a second over those of the peak."""
    return statistics.median(
        (operations / own) / (at_peak / probe) for own, probe in zip(times[side], times["peak"], strict=True)
    )


# ------------------------------------------------------------------------------------------- convolutions, recurrence


def network(net: Net, *, plain_aim: float) -> Iterator[Case]:
    """Plain beside PyTorch, clipped in L2 beside our own plain step and Opacus."""
    job = Job.of(net, 64)
    plain: dict[str, Trainer] = {"ours": Ours(job)}
    if _present("torch", "opacus"):
        from benchmarks._torch_training import TorchTrainer

        plain["PyTorch"] = TorchTrainer(job)
    clipped = _ghost(job)
    agree(job, plain, reference="ours")
    agree(job, clipped, reference="ours, clipped")
    times, own = interleaved_s(plain | clipped, rounds=9), _own(job, clipped["ours, clipped"], rounds=15)
    name = f"{net.name}, batch {job.batch}"
    for peer in list(plain)[1:]:
        yield _case(f"{name}, plain step", times, net.steps, "ours", peer, plain_aim)
    yield _case(f"{name}, reproducible over fast", own, net.steps, "ours, reproducible", "ours", None)
    yield _case(f"{name}, L2-clipped over plain", own, net.steps, "ours, clipped", "ours", 1.3)
    for peer in list(clipped)[1:]:
        yield _case(f"{name}, L2-clipped step", times, net.steps, "ours, clipped", peer, None)


# ------------------------------------------------------------------------------------------------ import and memory

_MEASURE = """
import sys, time
sys.path.append({peers!r})
{before}
start_s, cpu_s = time.perf_counter(), time.process_time()
{imports}
took_s, spent_s = time.perf_counter() - start_s, time.process_time() - cpu_s
resident_kb = next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss"))
print(took_s, spent_s, resident_kb * 1024 / 1e6)
"""


def footprint() -> Iterator[Case]:
    """Fresh processes in turn: NumPy alone, NumPy and our extension, PyTorch with Opacus.

    Memory is what is resident, shared pages included: this process maps the same libraries, so that little is private.
    """
    imports = {"numpy": ("import numpy", "pass"), "ours": ("import numpy", "from edge_runtime import _kernels")}
    if _present("torch", "opacus"):
        imports["peer"] = ("pass", "import torch, opacus")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in imports}
    for _ in range(6):
        for name, (before, after) in imports.items():
            found[name].append(_import(before, after))
    medians = {name: [statistics.median(v) for v in zip(*rows[1:], strict=True)] for name, rows in found.items()}
    ours, bare = medians["ours"], medians["numpy"]
    peer: list[float | None] = [*medians["peer"]] if "peer" in medians else [None] * 3
    rows = (
        ("import of the extension after NumPy, wall time", ours[0] * 1e3, "ms", peer[0] and peer[0] * 1e3, 20.0),
        ("import of the extension after NumPy, CPU", ours[1] * 1e3, "ms", peer[1] and peer[1] * 1e3, None),
        (
            "import of the extension, memory over bare NumPy",
            ours[2] - bare[2],
            "MB",
            peer[2] and peer[2] - bare[2],
            8.0,
        ),
    )
    for name, value, unit, theirs, aim in rows:
        case: Case = {"case": name, "ours": value, "unit": unit}
        if theirs is not None:
            case |= {"peer": theirs, "ratio": value / theirs, "peer_name": "PyTorch and Opacus"}
        yield case if aim is None else case | {"aim": aim}


def _import(before: str, after: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds and resident MB."""
    program = _MEASURE.format(peers=str(_PEERS), before=before, imports=after)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    wall_s, spent_s, resident = map(float, done.stdout.split())
    return wall_s, spent_s, resident


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
