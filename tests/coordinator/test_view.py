"""What is shown of a run: nothing twice, nothing a device could use against the terminal."""

import io
import re
import unicodedata
from dataclasses import replace

import pytest

pytest.importorskip("rich", reason="rich is not installed")
from rich.console import Console

from coordinator.history import Comparison, DeviceRecord, RoundRecord, RunHistory
from coordinator.view import (
    LiveView,
    comparison_table,
    device_names,
    devices_table,
    duration_text,
    epsilon_text,
    interesting,
    number_text,
    plain,
    size_text,
    sparkline,
)
from edge_runtime.architecture import Dense
from edge_runtime.task import InputSpec, ModelSpec, Task

TASK = Task(
    name="gait",
    rounds=5,
    inputs=InputSpec(columns=("x", "y"), label="activity", classes=("walk", "run")),
    model=ModelSpec(2, (Dense(2),)),
)
HOSTILE = [
    "\x1b[2J\x1b[H\x1b]0;owned\x07kettle",  # clear the screen, move the cursor, set the window title
    "\x9b31mkettle",  # the one-byte CSI of C1
    "[bold red]kettle[/bold red][/]",
    "[link=http://example.org]kettle[/link]",
    ":skull: kettle",
    "ket\ntle\r\x00\x08\x7f",
    "elttek\u202e\u2066",
    "\ud800kettle",
    "\u200bket\ufefftle",
    "kettle" * 1000,
]


def a_round(number: int, **changes) -> RoundRecord:
    record = RoundRecord(number, "committed", 100.0 * number, 100.0 * number + 4.2, 8, 7, 1, 0.5, 0.4, 0.9)
    return replace(record, **changes)


def a_device(number: int, **changes) -> DeviceRecord:
    device = DeviceRecord(f"{number:032x}"[::-1], f"device-{number}", "tcp", "connected", 1.0, 3, 2048, 4096, 3.0, "")
    return replace(device, **changes)


def a_history(rounds=(), devices=(), state="collecting", **changes) -> RunHistory:
    history = RunHistory("t", TASK, 100.0, 160.0, state, None, tuple(rounds), tuple(devices))
    return replace(history, **changes)


def shown(*renderables, terminal=False, width=120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    for renderable in renderables:
        console.print(renderable)
    return console.file.getvalue()


def plain_run(*histories: RunHistory) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=False)
    with LiveView(console) as view:
        for history in histories[:-1]:
            view.update(history)
        view.finish(histories[-1])
    return console.file.getvalue().splitlines()


def control_characters(text: str) -> set[str]:
    return {character for character in text if unicodedata.category(character)[0] == "C"} - {"\n"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_reaches_neither_the_terminal_nor_the_markup(name):
    history = a_history([a_round(1)], [a_device(1, name=name, note=name)])
    console = Console(file=io.StringIO(), width=200)
    console.print(devices_table(history))
    comparison_table([Comparison(name, 0.5, 0.1, None, name)], console)
    with LiveView(console) as view:
        view.finish(history)
    text = console.file.getvalue()
    assert control_characters(text) == set()
    if "[" in name and "\x1b" not in name:
        assert plain(name) in text, "markup is shown as it is written"


@pytest.mark.parametrize("name", HOSTILE)
def test_on_a_terminal_the_only_escapes_are_our_own(name):
    """Only cursor and erase sequences of rich may follow an ESC; with colours off no device text may add another."""
    innocent, hostile = (
        shown(devices_table(a_history([], [a_device(1, name=text, note=text)])), terminal=True)
        for text in ("kettle", name)
    )
    assert set(re.findall(r"\x1b[^m]*m", hostile)) <= set(re.findall(r"\x1b[^m]*m", innocent))
    assert control_characters(hostile) <= {"\x1b"}


def test_two_devices_of_the_same_name_are_told_apart_by_what_they_cannot_choose():
    devices = [a_device(1, name="kettle"), a_device(2, name="ket\u200btle"), a_device(3, name="\x1b"), a_device(4)]
    names = device_names(devices)
    assert len(set(names.values())) == 4
    assert names[devices[0].device] == f"kettle {devices[0].device[:8]}"
    assert names[devices[2].device] == devices[2].device[:8]
    assert names[devices[3].device] == "device-4"


def test_plain_output_says_everything_once_without_escape_codes():
    rounds = [a_round(1), a_round(2, outcome="abandoned", accepted=2, update_l2=None, loss=None, accuracy=None)]
    device = a_device(1, note="its budget is spent")
    first, second = a_history(rounds[:1]), a_history(rounds, [device])
    ended = replace(second, state="finished", finished_because="nobody is left to ask")
    lines = plain_run(first, first, second, second, ended)
    assert lines == [
        "task gait: 5 rounds, 8 devices in each",
        "round 1 of 5 committed: 7 of 8 answered, 1 declined, loss 0.400, accuracy 90.0 %, update norm 0.500, 4.2 s",
        "round 2 of 5 abandoned: 2 of 8 answered, 1 declined, 4.2 s",
        "device device-1: its budget is spent",
        "finished after 1 round in 1 min 00 s: nobody is left to ask",
    ]
    assert control_characters("\n".join(lines)) == set()


def test_a_new_note_of_the_same_device_is_printed_again():
    notes = ["asleep", "its budget is spent", "asleep"]
    lines = plain_run(*(a_history([], [a_device(1, note=note)]) for note in notes))
    assert [line for line in lines if line.startswith("device")] == [
        "device device-1: asleep",
        "device device-1: its budget is spent",
    ]


def test_a_long_line_is_not_wrapped_where_nobody_reads_a_terminal():
    lines = plain_run(a_history([], [a_device(1, note="word " * 60)]))
    assert len(lines) == 3
    assert len(lines[1]) > 120


def test_a_log_that_takes_only_ascii_still_gets_every_line():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    with LiveView(console) as view:
        view.finish(a_history([a_round(1)], [a_device(1, name="Küche", note="schläft")]))
    assert b"device K?che: schl?ft" in raw.getvalue()


@pytest.mark.parametrize("rounds", [0, 1, 40])
@pytest.mark.parametrize("devices", [0, 1, 1000])
def test_the_live_picture_is_drawn_at_any_size_and_fits_the_screen(rounds, devices):
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=True)
    history = a_history(
        [a_round(n, loss=float("nan") if n == 2 else None, accuracy=None) for n in range(1, rounds + 1)],
        [a_device(n) for n in range(devices)],
        open_round=(rounds + 1, 2, 8),
    )
    with LiveView(console) as view:
        view.update(history)
        lines = console.render_lines(view._picture())
        view.finish(replace(history, state="finished"))
    assert len(lines) <= 30
    text = console.file.getvalue()
    assert "gait" in text
    assert "\x1b[?25h" in text, "the cursor is back"
    assert f"finished after {rounds} round" in text


def test_the_terminal_is_put_back_when_the_run_fails():
    console = Console(file=io.StringIO(), force_terminal=True)
    view = LiveView(console)
    with pytest.raises(KeyboardInterrupt), view:
        raise KeyboardInterrupt
    assert console.file.getvalue().rstrip().endswith("\x1b[?25h")


def test_of_a_thousand_devices_the_telling_ones_are_shown_and_all_are_counted():
    devices = [a_device(n, contributions=n % 7) for n in range(1000)]
    devices[500] = replace(devices[500], note="its budget is spent", state="away")
    devices[600] = replace(devices[600], contributions=99)
    devices[700] = replace(devices[700], contributions=100, state="away")
    text = shown(devices_table(a_history([], devices)))
    assert "and 980 more" in text
    assert "1000 in all" in text
    assert "2.0 MB" in text
    assert text.index("device-500") < text.index("device-600")
    assert "device-700" not in text
    assert [device.name for device in interesting(devices, 2)] == ["device-500", "device-600"]


def test_few_devices_keep_their_order_so_that_lines_do_not_jump():
    devices = [a_device(1), a_device(2, note="asleep"), a_device(3)]
    text = shown(devices_table(a_history([], devices)))
    assert text.index("device-1") < text.index("device-2") < text.index("device-3")
    assert "more" not in text


def test_no_guarantee_is_said_in_words_and_no_mechanism_is_a_dash():
    console = Console(file=io.StringIO(), width=120)
    comparison_table([Comparison("pooled", None, 0.2, None, ""), Comparison("noised", 0.9, 0.3, 8.001, "")], console)
    text = console.file.getvalue()
    assert "no guarantee" in text
    assert "8.01" in text
    assert "–" in shown(devices_table(a_history([], [a_device(1, epsilon=None)])))


def test_units_are_for_people():
    assert [size_text(n) for n in (0, 999, 1000, 12_345, 999_499, 999_500, 4_100_000)] == [
        *("0 B", "999 B", "1.0 kB", "12.3 kB", "999 kB", "1.0 MB", "4.1 MB")
    ]
    assert [duration_text(s) for s in (-3, 0.44, 9.96, 59.6, 125, 7860, 273_600)] == [
        *("0.0 s", "0.4 s", "10 s", "1 min 00 s", "2 min 05 s", "2 h 11 min", "3 d 4 h")
    ]
    assert [number_text(n) for n in (None, 0.0, 0.5, 12.34, 1234.5, 2e7, float("nan"))] == [
        *("–", "0", "0.500", "12.3", "1234", "2e+07", "nan")
    ]
    assert [epsilon_text(e) for e in (None, 0.0, 1.0000000000000002, 1.001, 3.999)] == [
        *("–", "0.00", "1.00", "1.01", "4.00")
    ]


def test_a_sparkline_spans_least_to_greatest_and_takes_flat_and_broken_values():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([float("nan"), float("inf"), 1.0]) == "▁"
    assert sparkline([]) == ""
    assert len(sparkline(list(range(100)), width=24)) == 24
