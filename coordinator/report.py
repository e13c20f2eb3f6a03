"""The report of a run: one HTML file that needs nothing else, neither scripts nor the network, now or in ten years.

Every text that did not originate here is cut to one harmless line (:func:`coordinator.view.plain`) and escaped; besides, the
page's own content security policy forbids scripts and every fetch.
"""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from coordinator import plots
from coordinator.history import Comparison, DeviceRecord, RoundRecord, RunHistory
from coordinator.view import (
    NONE,
    device_names,
    duration_text,
    epsilon_text,
    interesting,
    number_text,
    percent_text,
    plain,
    size_text,
)
from edge_runtime.durable import make_directory, write_file
from edge_runtime.privacy.accountant import composed_epsilon
from edge_runtime.privacy.laplace import LaplaceNoise

ROWS_IN_SIGHT = 12
MOST_ROWS = 2000


def write_report(
    folder: Path,
    history: RunHistory,
    comparisons: Sequence[Comparison],
    *,
    model_files: Sequence[Path] = (),
) -> Path:
    """Write ``report.html`` into ``folder``, whole or not at all, and return its path.

    ``model_files`` are listed with their sizes. Without matplotlib the report has its tables and no plots.
    """
    make_directory(folder)
    path = folder / "report.html"
    # A lone surrogate in a path is the only text that does not encode, and it is no reason to lose the report.
    write_file(path, report_html(history, comparisons, model_files=model_files).encode("utf-8", "replace"))
    return path


def report_html(history: RunHistory, comparisons: Sequence[Comparison], *, model_files: Sequence[Path] = ()) -> str:
    """The page itself."""
    title = _safe(history.task.name, 80)
    sections = [
        _comparison_section(comparisons),
        _learning_section(history),
        _privacy_section(history),
        _traffic_section(history),
        _model_section(history, model_files),
        _devices_section(history),
        _rounds_section(history),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{title} · fedge</title><style>{_CSS}</style></head>\n<body><main>\n"
        f"{_head(history, title)}\n{''.join(sections)}</main></body></html>\n"
    )


@dataclass(frozen=True)
class NoiseFigures:
    """What the noise of a round does to its mean update. Norms are L2, in the units of the parameters."""

    noise: LaplaceNoise
    local: bool
    parameters: int
    contributors: int  # the median of the rounds, or the size of the cohort before the first
    observed_l2: float | None  # median norm of the released mean updates, their noise included
    signal_l2: float | None  # what of it is update: None where it cannot be told from the noise

    @classmethod
    def of(cls, history: RunHistory) -> Self:
        """The figures of a task whose place of noise is not "none".

        The noise is independent of the update, so their squared norms add in expectation, and the update's own is estimated
        by mean(observed^2 - noise^2). A squared Laplace variable has variance 5 mean^2: an estimate within two standard
        deviations of zero, over all drawn values, says nothing.
        """
        privacy, parameters = history.task.privacy, history.task.model.parameter_count
        noise, local = privacy.noise(), privacy.place == "local"
        done = [(r.update_l2, r.accepted) for r in history.rounds if r.update_l2 is not None and r.accepted]
        observed = [(norm, count) for norm, count in done if math.isfinite(norm)]
        contributors = round(statistics.median(count for _, count in observed)) if observed else history.task.cohort.size
        signal_l2 = None
        if observed:
            noises = [noise.expected_noise_l2(parameters, count, local=local) ** 2 for _, count in observed]
            excess = statistics.fmean(norm**2 for norm, _ in observed) - statistics.fmean(noises)
            if excess > 2 * math.sqrt(5 / (parameters * len(observed))) * statistics.fmean(noises):
                signal_l2 = math.sqrt(excess)
        median = statistics.median(norm for norm, _ in observed) if observed else None
        return cls(noise, local, parameters, contributors, median, signal_l2)

    @property
    def update_l2(self) -> float:
        """The update to measure the noise against: the estimate, else the clip norm, which no update's L2 norm exceeds."""
        return self.signal_l2 or self.noise.clip_norm

    def noise_l2(self, parameters: int) -> float:
        """Expected norm of the noise on the mean update of a model with so many parameters."""
        return self.noise.expected_noise_l2(parameters, self.contributors, local=self.local)

    def devices_needed(self, parameters: int) -> int:
        """From how many contributors on the noise is below the update: it falls as 1/n, as 1/sqrt(n) under local noise."""
        ratio = self.noise.expected_noise_l2(parameters, 1, local=self.local) / self.update_l2
        return max(1, math.ceil(ratio**2 if self.local else ratio))

    def epsilon_needed(self, parameters: int) -> float:
        """At which epsilon per round the noise would be at the update, with as many contributors: it falls as 1/epsilon."""
        return self.noise.event.epsilon * self.noise_l2(parameters) / self.update_l2


def _safe(text: str, limit: int = 60) -> str:
    return html.escape(plain(text, limit))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _section(title: str, body: str) -> str:
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>{body}</section>\n'


def _figure(drawing: str, caption: str = "") -> str:
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{drawing}{words}</figure>" if drawing else ""


def _drawn(plot: str) -> str:
    return plot


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: Iterable[int] = (0,)) -> str:
    """A table of finished HTML cells; columns other than ``words`` are numbers and stand to the right."""
    kinds = ["" if column in set(words) else ' class="n"' for column in range(len(headings))]
    head = "".join(f'<th scope="col"{kind}>{text}</th>' for kind, text in zip(kinds, headings, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>\n" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _long_table(headings: Sequence[str], rows: Sequence[Sequence[str]], total: int, *, words: Iterable[int]) -> str:
    """The first rows in sight, the others folded away; of a very long table only ``MOST_ROWS`` are in the file."""
    first, others = rows[:ROWS_IN_SIGHT], rows[ROWS_IN_SIGHT:]
    if not others:
        return _table(headings, first, words=words)
    kept = "" if total == len(rows) else f" (of {total:,}; the file holds no more)"
    folded = f"<summary>{len(others):,} more{kept}</summary>{_table(headings, others, words=words)}"
    return f"{_table(headings, first, words=words)}<details>{folded}</details>"


def _head(history: RunHistory, title: str) -> str:
    task, devices = history.task, history.devices
    contributed = sum(device.contributions > 0 for device in devices)
    aim = f"to tell {len(task.inputs.classes)} classes apart" if task.inputs.classes else "to predict a number"
    left = {
        "none": "their updates left them as they were, without a privacy mechanism",
        "local": "each added its own noise to what left it",
        "central": "clipped updates left them, and the coordinator added noise before it used any",
    }[task.privacy.place]
    lede = (
        f"{_count(contributed, 'device')} trained one model {aim}, in {_count(history.committed, 'round')}. "
        f"Their data stayed where it was measured; {left}."
    )
    if not history.committed:
        lede = "No round has changed the model yet."
    started = datetime.fromtimestamp(history.started_at_s, UTC)
    because = f", because: {_safe(history.finished_because, 160)}" if history.finished_because else ""
    state = {"gathering": "gathering devices", "collecting": "running", "finished": "finished"}[history.state]
    return (
        f'<header><p class="kicker">fedge · training report</p><h1>{title}</h1><p class="lede">{lede}</p>'
        f'<p class="meta">started {started:%Y-%m-%d %H:%M} UTC · {duration_text(history.now_s - history.started_at_s)} · '
        f"{state}{because} · task {_safe(history.task_id, 40)}</p></header>{_tiles(history)}"
    )


def _tiles(history: RunHistory) -> str:
    task, devices = history.task, history.devices
    done = [record for record in history.rounds if record.outcome == "committed"]
    accuracies = [record.accuracy for record in done if record.accuracy is not None]
    losses = [record.loss for record in done if record.loss is not None]
    if accuracies:
        score = ("accuracy", percent_text(accuracies[-1]), f"best {percent_text(max(accuracies))}")
    elif losses:
        score = ("loss", number_text(losses[-1]), f"best {number_text(min(losses))}")
    else:
        score = ("accuracy", NONE, "not evaluated")
    if task.privacy.place == "none":
        cost = ("epsilon", "none", "no privacy guarantee")
    else:
        most = max((device.epsilon or 0.0 for device in devices), default=0.0)
        per_round = epsilon_text(task.privacy.noise().event.epsilon)
        cost = ("epsilon", epsilon_text(most), f"most spent by a device; {per_round} a round")
    contributed = sum(device.contributions > 0 for device in devices)
    abandoned = len(history.rounds) - len(done)
    up, down = sum(device.bytes_up for device in devices), sum(device.bytes_down for device in devices)
    tiles = [
        score,
        cost,
        ("devices", f"{contributed:,}", f"took part, of {len(devices):,} enrolled"),
        ("rounds", f"{len(done):,}", f"of {task.rounds:,}" + (f"; {abandoned:,} abandoned" if abandoned else "")),
        ("traffic", size_text(up + down), f"{size_text(up)} up, {size_text(down)} down"),
        ("model", f"{task.model.parameter_count:,}", f"parameters, {size_text(4 * task.model.parameter_count)}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><p>{note}</p></div>" for name, value, note in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _comparison_section(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    rows = [
        [
            f"<b>{_safe(row.label)}</b>",
            percent_text(row.accuracy),
            number_text(row.loss),
            "no guarantee" if row.epsilon is None else epsilon_text(row.epsilon),
            _safe(row.note, 200),
        ]
        for row in comparisons
    ]
    headings = ("training", "accuracy", "loss", "epsilon per device", "what to know")
    caption = "All on the same evaluation set. Strong bars keep a privacy guarantee, pale ones give none."
    return _section(
        "How it compares",
        _figure(_plot("comparison", comparisons=comparisons), caption) + _table(headings, rows, words=(0, 4)),
    )


def _learning_section(history: RunHistory) -> str:
    drawing = _plot("learning", history)
    abandoned = sum(record.outcome == "abandoned" for record in history.rounds)
    caption = "Measured by the coordinator on its own evaluation set after each round."
    if abandoned:
        caption += f" A cross marks each of {_count(abandoned, 'round')} that had too few answers and changed nothing."
    evaluated = any(record.loss is not None for record in history.rounds)
    body = _figure(drawing, caption) if evaluated else "<p>The coordinator had no evaluation set, or no round yet.</p>"
    return _section("Learning", body)
