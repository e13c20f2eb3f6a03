"""The user's own table: what is used of it, what is left out, and what is said about it."""

import numpy as np
import pytest

from coordinator.comparison import compare
from coordinator.own_data import fleet
from coordinator.partition import TableSource
from coordinator.simulate import Simulation
from edge_runtime.errors import LocalError
from edge_runtime.features import examples

DEFAULTS = {"label": None, "device_column": None, "devices": 6, "rounds": 2, "epsilon": 2.0, "place": "central"}


def write(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(4)
    rows = [
        [f"{a:.3f}", f"{b:.3f}", ["mon", "tue"][index % 2], f"owner-{index % 6}", "warm" if a > b else "cold"]
        for index, (a, b) in enumerate(rng.normal(size=(240, 2)))
    ]
    return rows, lambda rows, header=("a", "b", "day", "who", "state"): write(tmp_path / "own.csv", header, rows)


def make(path, **changes):
    return fleet(path, **(DEFAULTS | changes))


def test_columns_of_text_are_left_out_and_said_so(table):
    rows, written = table
    made = make(written(rows))
    assert made.task.inputs.columns == ("a", "b")
    assert made.task.inputs.classes == ("cold", "warm")
    assert "Left out, not numbers: day, who." in made.story
    assert len(made.members) == 6
    assert sum(len(member.table.labels) for member in made.members) + len(made.test.labels) == 240
    assert [member.link for member in made.members] == ["serial"] * 2 + ["tcp"] * 4


def test_rows_with_gaps_are_dropped_and_counted(table):
    rows, written = table
    for row, gap in zip(rows[:5], ["", "?", "NA", "nan", ""], strict=True):
        row[0] = gap
    rows[5][4] = ""
    made = make(written(rows))
    assert "Dropped for gaps: 6 rows." in made.story
    assert made.story[0].startswith("234 rows of own.csv: 2 columns, 2 classes, 6 devices.")


def test_a_device_column_says_whose_rows_they_are(table):
    rows, written = table
    made = make(written(rows), device_column="who", serial_devices=0)
    assert [member.name for member in made.members] == [f"device-owner-{index}" for index in range(6)]
    assert "who" not in made.task.inputs.columns
    assert {len(member.table.labels) for member in made.members} == {30}


def test_a_number_to_predict_makes_a_regression(table):
    rows, written = table
    made = make(written(rows), label="b")
    assert made.task.inputs.classes == ()
    assert made.task.model.loss == "mse"
    assert made.task.inputs.columns == ("a",)
    outcome = Simulation(
        made.task,
        [TableSource(member.table) for member in made.members],
        seed=1,
        evaluation=examples(made.test, made.task.inputs),
    ).run()
    assert outcome.history.committed == 2
    assert outcome.history.rounds[0].accuracy is None


def test_an_npz_archive_does_as_well(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 3)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x=x, columns=np.array(["u", "v", "w"]), label=(x[:, 0] > 0).astype(int))
    made = make(tmp_path / "own.npz", label="label")
    assert made.task.inputs.columns == ("u", "v", "w")
    assert made.task.inputs.classes == ("0", "1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "colour"}, 'has no column "colour"; it has: a, b, day, who, state'),
        ({"device_column": "nobody"}, 'has no column "nobody"'),
        ({"devices": 3}, "want 5"),
        ({"devices": 65}, "to 64"),
        ({"device_column": "day"}, "names 2 devices"),
    ],
)
def test_what_cannot_be_done_is_told(table, change, words):
    rows, written = table
    with pytest.raises(LocalError, match=words):
        make(written(rows), **change)


def test_one_class_is_nothing_to_learn(table):
    rows, written = table
    with pytest.raises(LocalError, match="fewer than two classes"):
        make(written([[*row[:4], "warm"] for row in rows]))


def test_one_class_left_after_the_gaps_is_nothing_to_learn_either(table):
    rows, written = table
    for row in rows:
        if row[4] == "cold":
            row[0] = ""
    with pytest.raises(LocalError, match="fewer than two classes"):
        make(written(rows))


def test_a_label_of_texts_that_are_all_different_is_no_label(table):
    rows, written = table
    with pytest.raises(LocalError, match="different texts: name another with --label"):
        make(written([[*row[:4], f"text {index}"] for index, row in enumerate(rows)]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("a,b\n", "has no rows"),
        ("a,b\n1,2\n3\n", "different numbers of cells"),
        ("text,label\nx,yes\ny,no\n", "no column of numbers"),
        ("a,label\n1,yes\n2,no\n", "cannot be shared|too few"),
        ("a,a,label\n1,2,yes\n", "twice"),
        ("a,label\n,yes\n?,no\n", "no usable row|fewer than two classes"),
    ],
)
def test_files_that_are_no_table_are_told_as_such(tmp_path, text, words):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(LocalError, match=words):
        make(path)


def test_bytes_that_are_no_text_and_archives_that_are_none(tmp_path):
    (tmp_path / "own.csv").write_bytes(bytes(range(256)))
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 not really")
    for name in ("own.csv", "own.npz", "missing.csv"):
        with pytest.raises(LocalError, match="cannot read"):
            make(tmp_path / name)


def test_columns_of_one_value_and_of_huge_ones_still_train(table):
    rows, written = table
    for row in rows:
        row[0] = "7"
        row[1] = f"{float(row[1]) * 1e30:.4g}"
    made = make(written(rows))
    assert np.isfinite(made.task.inputs.scale).all()
    outcome = Simulation(made.task, [TableSource(member.table) for member in made.members], seed=1).run()
    assert outcome.history.committed == 2


def test_the_comparison_has_a_row_for_every_way_to_use_the_data(table):
    rows, written = table
    made = make(written(rows))
    tables = [member.table for member in made.members]
    outcome = Simulation(made.task, [TableSource(each) for each in tables], seed=1).run()
    found = compare(made.task, tables, made.test, outcome.params, outcome.history)
    assert [row.label for row in found] == [
        "federated",
        "federated without noise",
        "each device alone",
        "all data in one place",
    ]
    assert found[0].epsilon == pytest.approx(2.0, rel=0.01)
    assert all(row.epsilon is None for row in found[1:])
    assert all(0 <= row.accuracy <= 1 for row in found)
    assert found[3].accuracy > 0.9
