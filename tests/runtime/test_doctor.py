"""What the doctor says of a board and of a task's memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_runtime import doctor
from edge_runtime.architecture import Conv, Dense, Flatten, Gru, Pool
from edge_runtime.errors import DeviceFault, LocalError
from edge_runtime.identity import Home
from edge_runtime.tables import to_toml
from edge_runtime.task import InputSpec, ModelSpec, Task, TrainingSpec, WindowSpec

# The address space during one local training, in a process of its own, as the device does it: the offer's bytes stay.
# A thread watches, for training does not hold the interpreter's lock. What is allocated counts, touched or not.
MEASURE = """
import sys, threading
from pathlib import Path
import numpy as np
from edge_runtime import model
from edge_runtime.features import Examples
from edge_runtime.params import Tensor
from edge_runtime.task import load_task

def size_bytes():
    return int(open("/proc/self/statm").read().split()[0]) * 4096

def train(task):
    spec = task.model
    rows = task.training.batch_size
    data = Examples(np.ones((rows, spec.inputs), np.float32), np.zeros(rows, np.int32))
    yield size_bytes()
    offer = Tensor("<f4", (spec.parameter_count,), bytes(4 * spec.parameter_count))
    params = offer.array().astype(np.float32)
    model.local_update(spec, task.training, params, data, np.random.default_rng(0))
    yield 0

sizes, done = [], threading.Event()
def watch():
    while not done.wait(0.0005):
        sizes.append(size_bytes())

watcher = threading.Thread(target=watch)
watcher.start()
list(train(load_task(Path(sys.argv[2]))))  # what the first call loads is not the task's
steps = train(load_task(Path(sys.argv[1])))
before = next(steps)
sizes.clear()
next(steps)
done.set()
watcher.join()
print(max(sizes) - before)
"""


def a_task(model: ModelSpec, **training: object) -> Task:
    training = {"epochs": 10, **training}
    window = WindowSpec(model.shape[0], 1, values="samples") if len(model.shape) == 2 else None
    columns = tuple(f"c{index}" for index in range(model.shape[-1]))
    inputs = InputSpec(columns, "label", tuple("abcdefgh"[: model.outputs]), window=window)
    return Task("big", 1, inputs, model, TrainingSpec(**training))


HUGE = {
    "many parameters": a_task(ModelSpec(3000, (Dense(1500, "relu"), Dense(2))), optimizer="adam"),
    "one buffer of momentum": a_task(ModelSpec(3000, (Dense(1500, "tanh"), Dense(2))), momentum=0.9),
    "many activations": a_task(
        ModelSpec(
            layers=(
                Conv(32, 5, activation="relu", type="conv1d"),
                Pool(2, type="max_pool"),
                Conv(64, 5, activation="relu", type="conv1d"),
                Flatten(),
                Dense(2),
            ),
            shape=(500, 3),
        ),
        batch_size=96,
        micro_batch=96,
    ),
    "many steps": a_task(
        ModelSpec(layers=(Gru(64, sequences=True), Gru(32), Dense(2)), shape=(300, 8)), batch_size=64, micro_batch=64
    ),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_a_task_is_said_to_need_is_what_it_takes_within_a_tenth(case: str, tmp_path: Path) -> None:
    (tmp_path / "task.toml").write_text(to_toml(HUGE[case]))
    (tmp_path / "small.toml").write_text(to_toml(a_task(ModelSpec(3, (Dense(2),)))))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "task.toml"), str(tmp_path / "small.toml")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    said, measured = doctor.task_needs(HUGE[case], per_example=False).total, int(out)
    assert said > 20 << 20  # large beside a page here and there
    assert 0.9 * measured < said < 1.1 * measured


def test_per_example_clipping_has_its_own_line() -> None:
    plain = doctor.task_needs(HUGE["many steps"], per_example=False)
    clipped = doctor.task_needs(HUGE["many steps"], per_example=True)
    assert plain.per_example == 0
    assert clipped.per_example > 0
    assert clipped.total - clipped.per_example == plain.total


def test_a_task_is_explained_with_its_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "task.toml"
    path.write_text(to_toml(HUGE["many parameters"]))
    doctor.examine(Home(tmp_path / "home"), "", path)
    out = capsys.readouterr().out
    assert 'ok   task         "big" needs ' in out
    for words in ("MB beside its data", "parameters 72.1 MB (4504502 of 4 bytes, in 4 copies)", "optimizer 36.0 MB"):
        assert words in out


def test_a_task_larger_than_the_board_is_a_failure(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "memory_bytes", lambda: (50_000_000, 100_000_000))
    path = tmp_path / "task.toml"
    path.write_text(to_toml(HUGE["many parameters"]))
    assert doctor.examine(Home(tmp_path / "home"), "", path) == 1
    assert "50.0 MB are free; take fewer parameters or a micro_batch" in capsys.readouterr().out


def test_a_clock_that_has_not_been_set_is_a_fault_of_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 86_400.0)
    with pytest.raises(DeviceFault, match="1970-01-02"):
        doctor._clock()


def test_a_home_that_others_can_enter_is_no_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir(mode=0o755)
    with pytest.raises(LocalError, match="is open to others: chmod go-rwx"):
        doctor._permissions(home)
    home.path.chmod(0o700)
    assert "this user's alone" in doctor._permissions(home)
    home.policy.write_text("")
    home.policy.chmod(0o666)
    with pytest.raises(LocalError, match=r"policy\.toml is open to others"):
        doctor._permissions(home)
