"""A run in words and tables: live on a terminal, one plain line per round anywhere else.

Names and notes come from devices, so everything shown passes through :func:`plain` first and reaches rich as ``Text``,
never as markup: a device can neither colour the table, nor move the cursor, nor pass for another one.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.history import Comparison, DeviceRecord, RoundRecord, RunHistory

NAME_LIMIT = 28
NOTE_LIMIT = 160
_ROOM_FOR_BARS = 100
SHOWN_DEVICES = 20
SHOWN_ROUNDS = 6
NONE = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"
_STATE_STYLES = {"gathering": "yellow", "collecting": "cyan", "finished": "green"}


def plain(text: str, limit: int = NAME_LIMIT) -> str:
    """``text`` on one line of at most ``limit`` characters, none of them control, format, surrogate or unassigned.

    That takes out terminal escapes (C0 and C1), bidirectional overrides and invisible joiners.
    """
    spaced = "".join(" " if character.isspace() else character for character in text[: 8 * limit])
    kept = "".join(character for character in spaced if unicodedata.category(character)[0] != "C")
    line = " ".join(kept.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def device_names(devices: Sequence[DeviceRecord]) -> dict[str, str]:
    """What to call each device, by id: the name it gave itself; where two took the same, the start of the id too."""
    names = {device.device: plain(device.name) for device in devices}
    times = Counter(names.values())
    return {
        device: name if name and times[name] == 1 else f"{name} {plain(device)[:8]}".strip()
        for device, name in names.items()
    }


def size_text(size_bytes: float) -> str:
    """As in "640 B", "12.3 kB", "4.1 MB"; a kB is 1000 bytes."""
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 99.95 else f"{value:.1f} {units[0]}"


def duration_text(duration_s: float) -> str:
    """As in "0.4 s", "41 s", "3 min 05 s", "2 h 10 min", "3 d 4 h"; a clock that was set back counts as no time."""
    if duration_s < 9.95:
        return f"{max(duration_s, 0):.1f} s"
    whole = round(duration_s)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def number_text(value: float | None) -> str:
    """Three digits that matter, or a dash."""
    if value is None:
        return NONE
    if 100 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:#.3g}" if 0.001 <= abs(value) < 100 else f"{value:.3g}"


def percent_text(share: float | None) -> str:
    """As in "91.3 %", or a dash."""
    return NONE if share is None else f"{100 * share:.1f} %"


def epsilon_text(epsilon: float | None) -> str:
    """Two decimals, rounded up so that what is shown does not understate a cost; a dash where nothing is promised."""
    return NONE if epsilon is None else f"{math.ceil(round(epsilon * 100, 6)) / 100:.2f}"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """The last ``width`` finite values as block characters between their least and greatest."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    return "".join(_BLOCKS[round((value - low) / span * (len(_BLOCKS) - 1)) if span else 0] for value in shown)


def interesting(devices: Iterable[DeviceRecord], count: int) -> list[DeviceRecord]:
    """The ``count`` devices to look at first: those with something to say, then the connected, then the busiest."""
    order = sorted(devices, key=lambda d: (not d.note, d.state != "connected", -d.contributions, d.name, d.device))
    return order[:count]


def devices_table(history: RunHistory, *, rows: int = SHOWN_DEVICES) -> Table:
    """The ``rows`` most interesting devices: link, state, bytes, epsilon spent; totals over all devices at the foot.

    The state is left out once the task is finished, the notes when there are none: 80 columns are then enough.
    """
    devices = history.devices
    names = device_names(devices)
    shown = list(devices) if len(devices) <= rows else interesting(devices, rows)
    more = len(devices) - len(shown)
    with_state, with_notes = history.state != "finished", any(device.note for device in shown)
    table = Table(
        box=SIMPLE_HEAD,
        show_footer=bool(devices),
        caption=f"and {more} more" if more else None,
        caption_justify="left",
        pad_edge=False,
    )
    epsilons = [device.epsilon for device in devices if device.epsilon is not None]
    table.add_column("device", f"{len(devices)} in all", no_wrap=True, min_width=12)
    table.add_column("link")
    if with_state:
        table.add_column("state", f"{sum(d.state == 'connected' for d in devices)} connected", no_wrap=True)
    table.add_column("rounds", str(sum(d.contributions for d in devices)), justify="right")
    table.add_column("up", size_text(sum(d.bytes_up for d in devices)), justify="right", no_wrap=True)
    table.add_column("down", size_text(sum(d.bytes_down for d in devices)), justify="right", no_wrap=True)
    most = f"≤ {epsilon_text(max(epsilons))}" if epsilons else NONE
    table.add_column("epsilon", most, justify="right", no_wrap=True)
    if with_notes:
        table.add_column("note", overflow="fold", min_width=16)
    for device in shown:
        cells = [Text(names[device.device], style="bold"), Text(device.link)]
        if with_state:
            cells.append(Text(device.state, style="green" if device.state == "connected" else "dim"))
        cells += [
            Text(str(device.contributions)),
            Text(size_text(device.bytes_up)),
            Text(size_text(device.bytes_down)),
            Text(epsilon_text(device.epsilon)),
        ]
        if with_notes:
            cells.append(Text(plain(device.note, NOTE_LIMIT), style="yellow"))
        table.add_row(*cells)
    return table


def comparison_table(rows: Sequence[Comparison], console: Console) -> None:
    """Print the final table: ways to train, scored on the same evaluation set; with bars where there is room."""
    with_bars = console.width >= _ROOM_FOR_BARS
    table = Table(box=SIMPLE_HEAD)
    table.add_column("training", no_wrap=True)
    table.add_column("accuracy", justify="right", no_wrap=True)
    if with_bars:
        table.add_column("", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column("epsilon", justify="right", no_wrap=True)
    table.add_column("note")
    for row in rows:
        cells = [Text(plain(row.label, 60), style="bold"), Text(percent_text(row.accuracy))]
        if with_bars:
            cells.append(Text("█" * round(16 * (row.accuracy or 0)), style="cyan"))
        cells += [
            Text(number_text(row.loss)),
            Text("no guarantee", style="dim") if row.epsilon is None else Text(epsilon_text(row.epsilon)),
            Text(plain(row.note, NOTE_LIMIT)),
        ]
        table.add_row(*cells)
    console.print(table)


def round_line(record: RoundRecord, history: RunHistory) -> str:
    """A round on one line of plain text."""
    parts = [f"{record.accepted} of {record.cohort} answered"]
    if record.declined:
        parts.append(f"{record.declined} declined")
    if record.loss is not None:
        parts.append(f"loss {number_text(record.loss)}")
    if record.accuracy is not None:
        parts.append(f"accuracy {percent_text(record.accuracy)}")
    if record.update_l2 is not None:
        parts.append(f"update norm {number_text(record.update_l2)}")
    parts.append(duration_text(record.closed_at_s - record.opened_at_s))
    return f"round {record.number} of {history.task.rounds} {record.outcome}: {', '.join(parts)}"


class LiveView:
    """Shows a run while it runs. A context manager: the terminal is put back in order however the block is left.

    On a terminal the picture is redrawn four times a second from the last history it was given, so ``update`` costs
    nothing and may be called for every message. Elsewhere (a pipe, a log) each round and each refusal of a device is
    printed once.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._history: RunHistory | None = None
        self._finished = False
        self._rounds_printed = 0
        self._notes_printed: set[tuple[str, str]] = set()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, history: RunHistory) -> None:
        """Show ``history`` from now on."""
        if self._live is None:
            self._print_news(history)
        self._history = history

    def finish(self, history: RunHistory) -> None:
        """Show how it ended and stop. The last picture leaves the devices out: :func:`devices_table` has all of it."""
        self.update(history)
        self._finished = True
        if self._live is not None:
            self._live.stop()
        because = f": {plain(history.finished_because, NOTE_LIMIT)}" if history.finished_because else ""
        elapsed = duration_text(history.now_s - history.started_at_s)
        self._line(f"finished after {_count(history.committed, 'round')} in {elapsed}{because}")

    def _print_news(self, history: RunHistory) -> None:
        if self._history is None:
            task = history.task
            size = _count(task.cohort.size, "device")
            self._line(f"task {plain(task.name, 80)}: {_count(task.rounds, 'round')}, {size} in each")
        for record in history.rounds[self._rounds_printed :]:
            self._line(round_line(record, history))
        self._rounds_printed = max(self._rounds_printed, len(history.rounds))
        noted = [device for device in history.devices if device.note]
        news = [device for device in noted if (device.device, device.note) not in self._notes_printed]
        names = device_names(history.devices) if news else {}
        for device in news:
            self._notes_printed.add((device.device, device.note))
            self._line(f"device {names[device.device]}: {plain(device.note, NOTE_LIMIT)}")

    def _line(self, line: str) -> None:
        encoding = self._console.encoding
        line = line.encode(encoding, "replace").decode(encoding)
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        history = self._history
        if history is None:
            return Text("waiting for the first device", style="dim")
        parts: list[RenderableType] = [_header(history), _progress(history)]
        if history.rounds:
            parts.append(_rounds_table(history.rounds))
        if history.devices and not self._finished:
            room = self._console.height - 13 - min(len(history.rounds), SHOWN_ROUNDS)
            table = devices_table(history, rows=min(max(room, 3), SHOWN_DEVICES))
            table.columns[-1].no_wrap = True  # here a note may not cost a second line; the final table folds it
            table.columns[-1].overflow = "ellipsis"
            parts.append(table)
        return Group(*parts)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _header(history: RunHistory) -> Text:
    number = history.open_round[0] if history.open_round else history.committed
    state = history.state
    if history.open_round:
        _, answers, cohort = history.open_round
        state_text = f"{state} {answers} of {cohort}"
    elif state == "gathering":
        connected = sum(device.state == "connected" for device in history.devices)
        state_text = f"gathering: {_count(connected, 'device')} of {history.task.cohort.quorum} needed"
    else:
        state_text = state
    return Text.assemble(
        (plain(history.task.name, 60), "bold"),
        ("  ·  ", "dim"),
        f"round {number} of {history.task.rounds}",
        ("  ·  ", "dim"),
        (state_text, _STATE_STYLES[state]),
        ("  ·  ", "dim"),
        duration_text(history.now_s - history.started_at_s),
    )


def _progress(history: RunHistory) -> ProgressBar:
    return ProgressBar(total=history.task.rounds, completed=min(history.committed, history.task.rounds), width=60)


def _rounds_table(rounds: tuple[RoundRecord, ...]) -> Table:
    accuracies = [record.accuracy for record in rounds if record.accuracy is not None]
    losses = [record.loss for record in rounds if record.loss is not None]
    caption = Text()
    for name, values, text in (("accuracy", accuracies, percent_text), ("loss", losses, number_text)):
        if values:
            caption.append(f"{name} ").append(sparkline(values), style="cyan").append(f" {text(values[-1])}   ")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=caption or None, caption_justify="left")
    for heading in ("round", "loss", "accuracy", "update norm", "answers", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for record in rounds[-SHOWN_ROUNDS:]:
        remarks = ["abandoned"] if record.outcome == "abandoned" else []
        if record.declined:
            remarks.append(f"{record.declined} declined")
        table.add_row(
            str(record.number),
            number_text(record.loss),
            percent_text(record.accuracy),
            number_text(record.update_l2),
            f"{record.accepted} of {record.cohort}",
            duration_text(record.closed_at_s - record.opened_at_s),
            Text(", ".join(remarks), style="yellow"),
        )
    return table
