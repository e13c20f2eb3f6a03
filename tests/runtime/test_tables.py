from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.architecture import Dense
from edge_runtime.errors import LocalError, RemoteError
from edge_runtime.params import Tensor
from edge_runtime.policy import Policy, load_policy
from edge_runtime.tables import Range, from_mapping, to_mapping, to_toml
from edge_runtime.task import (
    CohortSpec,
    InputSpec,
    ModelSpec,
    PrivacySpec,
    Task,
    TrainingSpec,
    WindowSpec,
    load_task,
)


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, Range(1, 9)]
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, Range(1, 8)]
    inner: Inner
    parts: Annotated[tuple[Inner, ...], Range(0, 2)] = ()
    kind: Literal["big", "small"] = "big"
    raw: bytes = b""
    on: bool = False
    note: Annotated[str, Range(0, 4)] | None = None
    maybe: Inner | None = field(default=None)

    def __post_init__(self) -> None:
        if self.name == self.note:
            raise ValueError("the name is its own note")


GOOD = {"name": "x", "inner": {"size": 3}}

MISFITS = {
    "a typing error in a key": (
        {"nmae": "x", "inner": {"size": 3}},
        "here: unknown key 'nmae'; did you mean \"name\"?",
    ),
    "a key like no other": ({**GOOD, "zzzzz": 1}, "here: unknown key 'zzzzz'; known keys: name, inner, parts"),
    "a key that is a number": ({**GOOD, 5: 1}, "here: unknown key 5; known keys"),
    "a key of many megabytes": ({**GOOD, "n" * 30_000_000: 1}, "here: unknown key 'nnn"),
    "a missing key": ({"name": "x"}, 'here: the key "inner" is missing'),
    "a missing key further in": ({"name": "x", "inner": {}}, 'here: inner: the key "size" is missing'),
    "a list for a table": ({"name": "x", "inner": [1]}, "here: inner: want a table of Inner, got a list of 1 entries"),
    "no table at all": (None, "here: want a table of Outer, got None"),
    "a table for a list": ({**GOOD, "parts": {}}, "here: parts: want a list, got a table of 0 entries"),
    "a string for a number": ({"name": "x", "inner": {"size": "3"}}, "here: inner: size: want int, got '3'"),
    "a number for a string": ({"name": 3, "inner": {"size": 3}}, "here: name: want str, got 3"),
    "a string for bytes": ({**GOOD, "raw": "x"}, "here: raw: want bytes, got 'x'"),
    "true for a number": ({"name": "x", "inner": {"size": True}}, "here: inner: size: want int, got True"),
    "true for a float": ({"name": "x", "inner": {"size": 3, "share": True}}, "share: want float, got True"),
    "one for a boolean": ({**GOOD, "on": 1}, "here: on: want bool, got 1"),
    "a float for an integer": ({"name": "x", "inner": {"size": 3.0}}, "here: inner: size: want int, got 3.0"),
    "NaN": ({"name": "x", "inner": {"size": 3, "share": math.nan}}, "share: nan is not a finite number"),
    "infinity": ({"name": "x", "inner": {"size": 3, "share": -math.inf}}, "share: -inf is not a finite number"),
    "a huge integer for a float": ({"name": "x", "inner": {"size": 3, "share": 10**400}}, "an integer of 1329 bits"),
    "an integer that a float rounds": (
        {"name": "x", "inner": {"size": 3, "share": 2**53 + 1}},
        "too large for a float",
    ),
    "a huge integer": ({"name": "x", "inner": {"size": 10**5000}}, "size: an integer of 16610 bits is outside 1..9"),
    "a number below": ({"name": "x", "inner": {"size": 0}}, "here: inner: size: 0 is outside 1..9"),
    "a number above": ({"name": "x", "inner": {"size": 10}}, "here: inner: size: 10 is outside 1..9"),
    "a string too long": ({**GOOD, "name": "x" * 9}, "here: name: a length of 9 is outside 1..8"),
    "a string too short": ({**GOOD, "name": ""}, "here: name: a length of 0 is outside 1..8"),
    "an optional string too long": ({**GOOD, "note": "xxxxx"}, "here: note: a length of 5 is outside 0..4"),
    "a list too long": ({**GOOD, "parts": [{"size": 1}] * 3}, "here: parts: a length of 3 is outside 0..2"),
    "an entry of a list": ({**GOOD, "parts": [{"size": 1}, {"size": 0}]}, "here: parts[1]: size: 0 is outside 1..9"),
    "no such choice": ({**GOOD, "kind": "huge"}, "here: kind: want one of big, small; got 'huge'"),
    "a list as a choice": ({**GOOD, "kind": ["big"]}, "here: kind: want one of big, small; got a list of 1 entries"),
    "members that contradict": ({**GOOD, "note": "x"}, "here: the name is its own note"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_is_refused_with_its_path_value_and_bound(case: str) -> None:
    table, words = MISFITS[case]
    for error in (LocalError, RemoteError):
        with pytest.raises(error) as caught:
            from_mapping(Outer, table, where="here", error=error)
        assert words in str(caught.value)
        assert len(str(caught.value)) < 400


def test_control_characters_of_a_peer_do_not_reach_the_terminal() -> None:
    with pytest.raises(LocalError) as caught:
        from_mapping(Outer, {**GOOD, "kind": "\x1b[2Jbig", "\x1b]0;": 1}, where="here")
    assert "\x1b" not in str(caught.value)


def test_an_integer_is_taken_for_a_float_where_it_is_exact() -> None:
    assert from_mapping(Inner, {"size": 1, "share": 2**53}, where="here").share == 2.0**53


inner = st.builds(Inner, size=st.integers(1, 9), share=st.floats(allow_nan=False, allow_infinity=False))
outer = st.builds(
    Outer,
    name=st.text(min_size=5, max_size=8),
    inner=inner,
    parts=st.lists(inner, max_size=2).map(tuple),
    kind=st.sampled_from(["big", "small"]),
    raw=st.binary(max_size=20),
    on=st.booleans(),
    note=st.none() | st.text(max_size=4),
    maybe=st.none() | inner,
)


@given(outer)
def test_what_goes_out_as_a_table_comes_back_equal(value: Outer) -> None:
    assert from_mapping(Outer, to_mapping(value), where="here") == value


names = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)
constants = st.floats(1e-3, 1e30) | st.floats(-1e30, -1e-3)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    columns = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
    classes = tuple(draw(st.lists(names, min_size=2, max_size=3)))
    window = draw(st.none() | st.builds(WindowSpec, length=st.integers(2, 99), step=st.integers(1, 99)))
    inputs = InputSpec(
        columns=columns,
        label=draw(names),
        classes=classes,
        offset=draw(st.just(()) | st.tuples(*[constants] * len(columns))),
        scale=draw(st.just(()) | st.tuples(*[constants] * len(columns))),
        window=window,
    )
    return Task(
        name=draw(names),
        rounds=draw(st.integers(1, 100)),
        inputs=inputs,
        model=ModelSpec(inputs.features, (Dense(3, "tanh"), Dense(len(classes)))),
        training=TrainingSpec(learning_rate=draw(st.floats(1e-9, 1e3))),
        privacy=PrivacySpec(draw(st.sampled_from(["none", "local", "central"])), draw(st.floats(1e-6, 1e6)), 1.0),
        cohort=CohortSpec(),
    )


@given(tasks())
def test_a_task_survives_toml(task: Task) -> None:
    assert from_mapping(Task, tomllib.loads(to_toml(task)), where="here") == task


def test_a_policy_survives_toml() -> None:
    policy = Policy(0.1, ("local",), 3, 7.5, ("a", "b\x7f\n"))
    assert from_mapping(Policy, tomllib.loads(to_toml(policy)), where="here") == policy


TASK_FAULTS = {
    "a scale of zero": ({"inputs": {"scale": [0.0, 1.0]}}, "divides by zero"),
    "a scale that float32 takes for zero": ({"inputs": {"scale": [1e-300, 1.0]}}, "divides by zero"),
    "an offset beyond float32": ({"inputs": {"offset": [1e300, 1.0]}}, "offset[0]: 1e+300 is outside"),
    "a column named twice": ({"inputs": {"columns": ["a", "a"]}}, "a column is named twice"),
    "a delta that is no small one": ({"privacy": {"epsilon": 60.0}}, "has a delta of up to"),
    "a scale too few": ({"inputs": {"scale": [1.0]}}, "scale has 1 entries for 2 columns"),
    "a model of another width": (
        {"model": {"inputs": 3, "shape": []}},
        "the inputs give 2 features, the model takes 3",
    ),
    "too many outputs": ({"model": {"layers": [{"units": 3}]}}, "2 classes are named, the model has 3 outputs"),
    "classes and a regression": ({"model": {"loss": "mse"}}, "one output and no classes"),
    "an epsilon below the grid": ({"privacy": {"epsilon": 1e-3}}, "raise log2_scale"),
    "a quorum above the cohort": ({"cohort": {"quorum": 9}}, "the quorum 9 is larger than the cohort 8"),
    "too many parameters": ({"model": {"layers": [{"units": 65536}, {"units": 65536}]}}, "parameters, the limit is"),
    "few parameters that need gigabytes": (
        {
            "model": {"layers": [{"units": 65536}, {"units": 1}, {"units": 65536}, {"units": 2}]},
            "training": {"batch_size": 65536},
        },
        "lower batch_size",
    ),
}


@pytest.mark.parametrize("case", TASK_FAULTS)
def test_a_task_that_cannot_work_is_refused(case: str, new_task) -> None:
    changes, words = TASK_FAULTS[case]
    table = to_mapping(new_task())
    for part, members in changes.items():
        table[part] |= members
    with pytest.raises(LocalError, match=r"task\.toml") as caught:
        from_mapping(Task, table, where="task.toml")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", [b"name = ", b"\xff\xfe", b"rounds = " + b"9" * 5000, b"[[[[", b"rounds = 3"])
def test_a_damaged_file_is_one_sentence_with_its_path(tmp_path, text: bytes) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(text)
    for load in (load_task, load_policy):
        with pytest.raises(LocalError, match=r"file\.toml"):
            load(path)


def test_a_missing_task_is_refused_and_so_is_a_missing_policy(tmp_path) -> None:
    with pytest.raises(LocalError, match="cannot read the task"):
        load_task(tmp_path / "none.toml")
    with pytest.raises(LocalError, match="is gone, so what the owner allows is unknown"):
        load_policy(tmp_path / "none.toml")


def test_a_tensor_is_as_long_as_its_shape_says() -> None:
    for shape, data in [((2,), b"1234"), ((1 << 24, 1 << 24, 1 << 24), b""), ((0,), b"1234"), ((), b"")]:
        with pytest.raises(LocalError, match="a tensor <f4 of shape"):
            from_mapping(Tensor, {"dtype": "<f4", "shape": list(shape), "data": data}, where="here")
    for shape in [(1 << 24) + 1], [-1], [1, 1, 1, 1, 1]:
        with pytest.raises(LocalError, match=r"here: shape.*: .* is outside"):
            from_mapping(Tensor, {"dtype": "<f4", "shape": shape, "data": b"1234"}, where="here")
