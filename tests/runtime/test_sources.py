from __future__ import annotations

import os
import pickle
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import ColumnMissing, DeviceFault, LocalError
from edge_runtime.sources import CsvSource, NpzSource, open_source
from edge_runtime.task import InputSpec

SPEC = InputSpec(("a", "b"), "label", ("no", "yes"))
GOOD = b"label,a,junk,b\nno,1,x,2.5\nyes,-3e2,,4\n"


@pytest.fixture
def csv(tmp_path: Path):
    """A function that reads a CSV file of the given bytes."""

    def read(data: bytes, spec: InputSpec = SPEC):
        path = tmp_path / "data.csv"
        path.write_bytes(data)
        return CsvSource(path).read(spec)

    return read


def test_only_the_columns_of_the_task_are_read_in_its_order(csv) -> None:
    table = csv(GOOD)
    np.testing.assert_array_equal(table.values, [[1, 2.5], [-300, 4]])
    np.testing.assert_array_equal(table.labels, [0, 1])
    assert table.values.dtype == np.float32
    assert table.labels.dtype == np.int32


def test_a_label_may_be_a_number_to_predict(csv) -> None:
    assert csv(b"a,b\n1,0.25\n", InputSpec(("a",), "b")).labels.tolist() == [0.25]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + GOOD,
        GOOD.replace(b"\n", b"\r\n"),
        GOOD.replace(b"\n", b"\n\n"),
        GOOD.replace(b"label,a", b' label , "a"').replace(b"junk", b'"ju,nk"'),
        GOOD.rstrip(b"\n"),
        GOOD.replace(b"no,1,", b"no, 1 ,").replace(b"yes,", b" yes ,"),
    ],
    ids=["byte order mark", "CRLF", "blank lines", "quotes", "no last newline", "spaces"],
)
def test_files_as_programs_write_them_are_read_alike(csv, data: bytes) -> None:
    np.testing.assert_array_equal(csv(data.replace(b' label , "a"', b'label,"a"')).values, csv(GOOD).values)


CSV_FAULTS = {
    "empty": (b"", 'lacks the column "a" that the task reads'),
    "missing column": (b"label,a\nno,1\n", 'lacks the column "b" that the task reads; it has: label, a'),
    "text": (GOOD + b"no,one,x,2\n", 'data.csv, line 4, column "a": "one" is not a finite number'),
    "empty cell": (GOOD + b"no,,x,2\n", 'line 4, column "a": "" is not a finite number'),
    "NaN": (GOOD + b"no,nan,x,2\n", 'line 4, column "a": "nan" is not a finite number'),
    "infinity": (GOOD + b"no,1,x,-inf\n", 'line 4, column "b": "-inf" is not a finite number'),
    "beyond float32": (GOOD + b"no,1,x,1e39\n", 'line 4, column "b": "1e39" is not a finite number'),
    "too few cells": (GOOD + b"no,1,x\n", "line 4: 3 cells, the header has 4"),
    "too many cells": (GOOD + b"no,1,x,2,3\n", "line 4: 5 cells, the header has 4"),
    "unknown label": (GOOD + b"maybe,1,x,2\n", 'line 4: the label "maybe" is none of the classes no, yes'),
    "latin-1": (GOOD + b"no,1,\xe4\xf6,2\n", "is not UTF-8 text"),
    "binary": (bytes(range(256)), "is not UTF-8 text"),
    "a cell without end": (GOOD + b'no,1,"' + b"x" * 200_000, "is not a CSV file: field larger"),
}


@pytest.mark.parametrize("case", CSV_FAULTS)
def test_a_csv_file_that_does_not_fit_is_refused_with_its_line_and_column(csv, case: str) -> None:
    data, words = CSV_FAULTS[case]
    with pytest.raises(LocalError) as caught:
        csv(data)
    assert words in str(caught.value)


def test_a_missing_column_is_told_from_other_faults(csv) -> None:
    with pytest.raises(ColumnMissing) as caught:
        csv(b"a,label\n")
    assert caught.value.column == "b"


def test_a_number_to_predict_must_be_finite(csv) -> None:
    for text in (b"nan", b"inf", b"x"):
        with pytest.raises(LocalError, match="line 2"):
            csv(b"a,b\n1," + text + b"\n", InputSpec(("a",), "b"))


def test_a_header_alone_is_a_table_without_rows(csv) -> None:
    assert csv(b"label,a,b\n").values.shape == (0, 2)


def test_a_large_csv_file_is_never_in_memory_as_text(tmp_path) -> None:
    path, rows = tmp_path / "large.csv", 60_000
    path.write_text("a,b,label,text\n" + "".join(f"{i},1.5,no,{'x' * 100}\n" for i in range(rows)))
    tracemalloc.start()
    try:
        table = CsvSource(path).read(SPEC)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(table.labels) == rows
    assert peak_bytes < 40 * rows < path.stat().st_size // 2


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(GOOD)
    source = CsvSource(path)
    table = source.read(SPEC)
    assert source.read(SPEC) is table
    path.write_bytes(GOOD + b"no,5,x,6\n")
    assert len(source.read(SPEC).labels) == 3
    path.unlink()
    with pytest.raises(DeviceFault, match="cannot read"):
        source.read(SPEC)
    source.close()


# NPZ


@pytest.fixture
def npz(tmp_path: Path):
    """A function that reads an NPZ archive of the given arrays."""

    def read(spec: InputSpec = SPEC, **arrays: Any):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return NpzSource(path).read(spec)

    return read


def test_columns_are_arrays_or_those_of_a_matrix(npz) -> None:
    label = np.array(["no", "yes", "no"])
    x = np.arange(6.0).reshape(3, 2)
    for table in (
        npz(a=x[:, 0], b=x[:, 1], label=label),
        npz(x=x, columns=np.array(["a", "b"]), label=label),
        npz(x=x[:, ::-1], columns=np.array(["b", "a"]), label=label),
        npz(InputSpec(("x0", "x1"), "label", ("no", "yes")), x=x, label=label),
        npz(x=x.astype(np.int16), columns=np.array(["a", "b"]), label=np.array([0, 1, 0])),
        npz(x=x, columns=np.array(["a", "b"]), label=np.array([0.0, 1.0, 0.0])),
        npz(a=x[:, 0], b=x[:, 1], label=label.astype("S")),
        npz(x=np.column_stack([x, [0, 1, 0]]), columns=np.array(["a", "b", "label"])),
    ):
        np.testing.assert_array_equal(table.values, x)
        np.testing.assert_array_equal(table.labels, [0, 1, 0])


LABEL = np.array(["no", "yes"])
NPZ_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing array": ({"a": np.ones(2), "label": LABEL}, 'lacks the column "b" that the task reads; it has: a, label'),
    "nothing": ({}, 'lacks the column "a"'),
    "different lengths": ({"a": np.ones(2), "b": np.ones(3), "label": LABEL}, "differ in length"),
    "a matrix as a column": ({"a": np.ones(2), "b": np.ones((2, 1)), "label": LABEL}, '"b" is not an array of one'),
    "a number as a column": ({"a": np.ones(2), "b": np.float64(1), "label": LABEL}, '"b" is not an array of one'),
    "text": ({"a": np.ones(2), "b": LABEL, "label": LABEL}, "does not hold real numbers"),
    "complex": ({"a": np.ones(2), "b": np.ones(2, complex), "label": LABEL}, "does not hold real numbers"),
    "pickled objects": ({"a": np.ones(2), "b": np.array([{}, None]), "label": LABEL}, "allow_pickle=False"),
    "too few names": (
        {"x": np.ones((2, 2)), "columns": np.array(["a"]), "label": LABEL},
        "names 1 columns, its x has 2",
    ),
    "too many names": ({"x": np.ones((2, 1)), "columns": np.array(["a", "b"]), "label": LABEL}, "names 2 columns"),
    "unknown label": ({"a": np.ones(2), "b": np.ones(2), "label": np.array(["no", "maybe"])}, 'the label "maybe"'),
    "half a class": ({"a": np.ones(2), "b": np.ones(2), "label": np.array([0.0, 0.5])}, 'the label "0.5"'),
    "a label that is NaN": ({"a": np.ones(2), "b": np.ones(2), "label": np.array([0.0, np.nan])}, 'the label "nan"'),
}


@pytest.mark.parametrize("case", NPZ_FAULTS)
def test_an_archive_that_does_not_fit_is_refused_in_words(npz, case: str) -> None:
    arrays, words = NPZ_FAULTS[case]
    with pytest.raises(LocalError) as caught:
        npz(**arrays)
    assert words in str(caught.value)


class Trap:
    def __reduce__(self):
        return os.system, ("echo must not run",)


def test_what_is_no_archive_is_refused_and_never_unpickled(tmp_path, capfd) -> None:
    path = tmp_path / "data.npz"
    np.save(tmp_path / "one.npy", np.ones(2))
    np.savez(path, a=np.ones(200), b=np.ones(200), label=np.zeros(200))
    whole, rng = path.read_bytes(), random.Random(1)
    contents = [
        b"",
        b"PK",
        b"garbage",
        pickle.dumps(Trap()),
        (tmp_path / "one.npy").read_bytes(),
        whole[: len(whole) // 2],
    ]
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        contents.append(bytes(damaged))
    refused = 0
    for content in contents:
        path.write_bytes(content)
        try:
            NpzSource(path).read(SPEC)
        except LocalError:
            refused += 1
    assert refused > 20
    assert capfd.readouterr().out == ""


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)
    for name in ("a.npy", "a"):  # and a member that is no array
        with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
            archive.writestr(name, member if name == "a.npy" else b"text")
            archive.writestr("b.npy", member)
            archive.writestr("label.npy", member)
        with pytest.raises(LocalError):
            NpzSource(tmp_path / "data.npz").read(SPEC)


def test_an_archive_is_read_once_and_again_when_it_has_changed(tmp_path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, a=np.ones(2), b=np.ones(2), label=LABEL)
    source = NpzSource(path)
    assert source.read(SPEC) is source.read(SPEC)
    np.savez(path, a=np.ones(3), b=np.ones(3), label=np.array([0, 1, 1]))
    assert len(source.read(SPEC).labels) == 3
    source.close()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("none.csv", "there is no file none.csv"),
        ("data.txt", "want a .csv or .npz file, or sensor:PORT"),
        ("", "cannot tell what  is"),
        ("sensor:", "is no serial line"),
        ("sensor:/dev/tty@fast", "is no serial line"),
        ("sensor:/dev/tty@²", "is no serial line"),
    ],
)
def test_an_address_that_is_no_source_is_refused(address: str, words: str) -> None:
    with pytest.raises(LocalError) as caught:
        open_source(address)
    assert words in str(caught.value)


def test_the_ending_of_a_file_tells_what_it_is(tmp_path) -> None:
    for name, kind in [("a.csv", CsvSource), ("b.NPZ", NpzSource)]:
        (tmp_path / name).touch()
        assert isinstance(open_source(str(tmp_path / name)), kind)
