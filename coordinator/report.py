"""The report of a run: one HTML file that needs nothing else, neither scripts nor the network, now or in ten years.

Every text that did not originate here is cut to one harmless line (:func:`coordinator.view.plain`) and escaped;
besides, the page's own content security policy forbids scripts and every fetch.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

from coordinator import plots
from coordinator.history import Comparison, DeviceRecord, RunHistory
from coordinator.noise_figures import NoiseFigures
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

ROWS_IN_SIGHT = 12
MOST_ROWS = 2000


def write_report(
    folder: Path, history: RunHistory, comparisons: Sequence[Comparison], *, model_files: Sequence[Path] = ()
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
    sections = [_comparison_section(comparisons), _learning_section(history), _privacy_section(history)]
    sections += [_traffic_section(history), _model_section(history, model_files)]
    sections += [_devices_section(history), _rounds_section(history)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title} · fedge</title><style>{plots.PAGE_STYLE}</style></head>\n<body><main>\n"
        f"{_head(history, title)}\n{''.join(sections)}</main></body></html>\n"
    )


def _safe(text: str, limit: int = 60) -> str:
    return html.escape(plain(text, limit))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _section(title: str, body: str) -> str:
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{title}</h2>{body}</section>\n'


def _figure(draw: Callable[[], str], caption: str = "") -> str:
    try:
        drawing = draw()
    except ImportError:  # no matplotlib: the tables have to do
        return ""
    words = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure>{drawing}{words}</figure>" if drawing else ""


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
    if not rows:
        return "<p>None yet.</p>"
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
    elapsed = duration_text(history.now_s - history.started_at_s)
    because = f": {_safe(history.finished_because, 160)}" if history.finished_because else ""
    state = {"gathering": "gathering devices", "collecting": "running", "finished": "finished"}[history.state]
    return (
        f'<header><p class="kicker">fedge · training report</p><h1>{title}</h1><p class="lede">{lede}</p>'
        f'<p class="meta">started {started:%Y-%m-%d %H:%M} UTC · {elapsed} · '
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
    figure = _figure(lambda: plots.comparison_plot(comparisons), caption)
    return _section("How it compares", figure + _table(headings, rows, words=(0, 4)))


def _learning_section(history: RunHistory) -> str:
    abandoned = sum(record.outcome == "abandoned" for record in history.rounds)
    caption = "Measured by the coordinator on its own evaluation set after each round."
    if abandoned:
        caption += f" A cross marks each of {_count(abandoned, 'round')} that had too few answers and changed nothing."
    evaluated = any(record.loss is not None for record in history.rounds)
    if not evaluated:
        return _section("Learning", "<p>The coordinator had no evaluation set, or no round yet.</p>")
    return _section("Learning", _figure(lambda: plots.learning_plot(history), caption))


def _privacy_section(history: RunHistory) -> str:
    privacy = history.task.privacy
    if privacy.place == "none":
        body = (
            "<p>This task asks for <b>no privacy mechanism</b>. Updates leave the devices as they are, and whoever "
            "reads one can learn about the data behind it: single examples have been reconstructed from updates like "
            "these. Raw data stays on the devices, and links may be encrypted; neither bounds what they reveal.</p>"
        )
        return _section("Privacy", body)
    figures = NoiseFigures.of(history)
    spent = _figure(lambda: plots.epsilon_plot(history), _EPSILON_CAPTION)
    norms = _figure(lambda: plots.norm_plot(history), _NORM_CAPTION)
    row = f'<div class="two">{spent}{norms}</div>'
    return _section("Privacy", _mechanism(history, figures) + row + _noise_words(figures) + _not_protected(figures))


_EPSILON_CAPTION = (
    "Curve: a device that takes part in every round. Dashes: where the fleet stands. No limit is drawn because budgets "
    "are the owners': each device keeps its own and stops by itself."
)
_NORM_CAPTION = "Where the curve runs along the dashes, a round was mostly noise; what rises above them is learned."


def _mechanism(history: RunHistory, figures: NoiseFigures) -> str:
    noise, event = figures.noise, figures.noise.event
    tried = sum(record.accepted > 0 for record in history.rounds)
    most = max((device.epsilon or 0.0 for device in history.devices), default=0.0)
    planned, all_tried = (epsilon_text(composed_epsilon([event] * count)) for count in (history.task.rounds, tried))
    composed = f"{planned} for a device that answers in all {history.task.rounds:,} planned rounds."
    if tried:
        composed = (
            f"{epsilon_text(most)} for the device that spent most; {all_tried} for one that answered in all "
            f"{_count(tried, 'round')} so far; {composed}"
        )
    place = "At the coordinator: one draw covers the sum of a round before anything is done with it."
    if figures.local:
        place = "On the device: each covers its own update before it leaves."
    delta = dataclasses.replace(event, draws=history.task.model.parameter_count).delta
    deviation = math.sqrt(2) * 2.0**noise.log2_scale / math.log(2)
    facts = [
        (
            "mechanism",
            "Discrete Laplace noise on an integer grid, each further step less likely by a factor of "
            f"2<sup>&minus;1/{2**noise.log2_scale}</sup> (standard deviation {deviation:,.0f} steps), drawn exactly; "
            "no floating point near the noise.",
        ),
        ("place", place),
        ("unit", "One device's whole update in a round, however many examples stand behind it."),
        (
            "neighbours",
            "Two runs that differ in one device's update being replaced by zero; how many took part is public. "
            "Against any other update in its place, the guarantee holds with twice the epsilon.",
        ),
        ("clip norm", f"{noise.clip_norm:g} in L1; larger updates are scaled down to it."),
        ("sensitivity", f"{noise.levels:,} grid steps in L1, enforced on the integers after rounding."),
        (
            "epsilon per round",
            f"{epsilon_text(event.epsilon)}; delta below {_power_of_ten(delta)}, the sampler's distance from its law.",
        ),
        ("epsilon composed", composed),
        ("in words", _odds(most, event.epsilon)),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    return f'<dl class="facts">{rows}</dl>'


def _power_of_ten(value: Fraction) -> str:
    """The next power of ten above ``value``, as HTML."""
    return f"10<sup>&minus;{math.floor(-math.log10(value))}</sup>" if 0 < value < 1 else "1"


def _odds(most: float, per_round: float) -> str:
    """What epsilon promises, without pretending that a large one promises much."""
    words = (
        "Whatever anyone concludes from one round, a device's update changes the odds of it by at most a factor of "
        f"{_power(per_round)}"
    )
    if most > per_round:
        words += f"; over all rounds of the busiest device, by {_power(most)}"
    if most > 10:
        words += ". So large a factor is a bound on paper: fewer rounds or a smaller epsilon make it one to rely on"
    return f"{words}."


def _power(epsilon: float) -> str:
    if epsilon < 4.6:
        return f"{math.exp(epsilon):.1f}"
    return f"10<sup>{epsilon / math.log(10):.1f}</sup>"


def _noise_words(figures: NoiseFigures) -> str:
    d, clip_norm = figures.parameters, f"{figures.noise.clip_norm:g}"
    contributors = _count(figures.contributors, "contributor")
    update, at_least = "update", ""
    if figures.signal_l2 is not None:
        found = (
            f"The released mean updates have a median norm of <b>{number_text(figures.observed_l2)}</b>, noise "
            f"included. With the noise taken off in the mean square, "
            f"about <b>{number_text(figures.signal_l2)}</b> is update."
        )
    else:
        update, at_least = "update, at most", ", at least"
        found = f"No round has released an update yet; no L2 norm of one exceeds the clip norm, <b>{clip_norm}</b>."
        if figures.observed_l2 is not None:
            found = (
                f"The released mean updates have a median norm of <b>{number_text(figures.observed_l2)}</b>, which "
                f"cannot be told from noise alone. Below, the noise is held against the clip norm, {clip_norm}: no "
                "update's L2 norm exceeds it, and one that is spread over many parameters stays far below."
            )
    rows = [
        [
            f"{size:,}" + (" (this model)" if size == d else ""),
            number_text(figures.noise_l2(size)),
            number_text(figures.update_l2),
            number_text(figures.noise_l2(size) / figures.update_l2),
            f"{figures.devices_needed(size):,}",
            epsilon_text(figures.epsilon_needed(size)),
        ]
        for size in (d, 10 * d, 100 * d)
    ]
    headings = ("parameters", "noise on the mean", update, "noise / update", f"devices needed{at_least}", "or epsilon")
    falls = "falls only with the square root of their number" if figures.local else "falls with their number"
    return (
        f"<h3>Why the model is small</h3><p>With {_count(d, 'parameter')} and {contributors} the noise on the mean "
        f"update has an expected L2 norm of <b>{number_text(figures.noise_l2(d))}</b>. {found}</p>"
        "<p>Laplace noise under an L1 clip has an L2 norm that grows as &radic;(2d) with the number of parameters d, "
        "while the clipped update's does not grow: a model of ten times the size learns under about three times the "
        f"noise. What helps is more devices (the noise on their mean {falls}) or a larger epsilon:</p>"
        f"{_table(headings, rows)}"
        '<p class="note">To bring the noise down to the update: devices per round at this epsilon, or epsilon per '
        f"round with {contributors}.</p>"
    )


def _not_protected(figures: NoiseFigures) -> str:
    sees = (
        "<li><b>Single updates, to the coordinator.</b> It receives every clipped update before the noise and is "
        "trusted with them; the guarantee is against everyone who sees the models that come out.</li>"
    )
    if figures.local:
        sees = "<li><b>Whose update it is.</b> The coordinator sees each update, under that device's own noise.</li>"
    return (
        f"<h3>What is not protected</h3><ul>{sees}<li><b>Taking part.</b> Which devices answered, how often and why "
        "they declined is known to the coordinator and stands in this report.</li>"
        "<li><b>Timing and sizes.</b> When a device speaks and how many bytes it sends can be seen on its link.</li>"
        "<li><b>The evaluation.</b> Accuracy and loss are measured on the coordinator's own data, which counts as "
        "public; they say nothing of the devices' data beyond what the released model says.</li>"
        "<li><b>What the data says about everybody.</b> The model is meant to learn it.</li></ul>"
    )


def _traffic_section(history: RunHistory) -> str:
    devices = history.devices
    if not devices:
        return ""
    answers = max(1, sum(device.contributions for device in devices))
    up, down = sum(device.bytes_up for device in devices), sum(device.bytes_down for device in devices)
    words = (
        f"<p>{size_text(up)} went up and {size_text(down)} down, TLS included, the serial link's own frames not: "
        f"<b>{size_text(up / answers)}</b> up and <b>{size_text(down / answers)}</b> down for each contribution.</p>"
    )
    return _section("Traffic", words + _figure(lambda: plots.bytes_plot(history)))


def _model_section(history: RunHistory, model_files: Sequence[Path]) -> str:
    task = history.task
    inputs, spec = task.inputs, task.model
    columns = ", ".join(_safe(name, 40) for name in inputs.columns[:8]) + (", …" if len(inputs.columns) > 8 else "")
    source = f"{_count(len(inputs.columns), 'column')} ({columns})"
    if inputs.window:
        taken = " and ".join(inputs.window.statistics) if inputs.window.values == "statistics" else "the samples"
        source = f"{taken} of {source}, over windows of {inputs.window.length:,} rows every {inputs.window.step:,}"
    if inputs.extractor:
        source = f"{inputs.extractor.features:,} features that a frozen LiteRT model makes of {source}"
    outputs = f"one of {', '.join(_safe(name, 40) for name in inputs.classes[:12])}" if inputs.classes else "a number"
    layers = [
        [
            str(placed.number),
            placed.layer.type + (" (frozen)" if placed.frozen else ""),
            _shape_text(placed.takes),
            _shape_text(placed.gives),
            f"{placed.parameter_count:,}" if placed.parameter_count else "",
        ]
        for placed in spec.placed
    ]
    training = task.training
    body = (
        f"<p>From {source} to {outputs}. On each device: {_count(training.epochs, 'epoch')} of batches of "
        f"{training.batch_size:,} at learning rate {training.learning_rate:g}.</p>"
        f"{_table(('', 'layer', 'takes', 'gives', 'parameters'), layers, words=(0, 1))}"
    )
    if model_files:
        files = [
            [f"<code>{_safe(path.name, 80)}</code>", _file_size(path), _FILE_KINDS.get(path.suffix, "")]
            for path in model_files
        ]
        body += f"<h3>Files</h3>{_table(('file', 'size', 'for'), files, words=(0, 2))}"
    return _section("Model", body)


def _shape_text(shape: Sequence[int]) -> str:
    return " × ".join(f"{length:,}" for length in shape)


_FILE_KINDS = {
    ".safetensors": "PyTorch and anything that reads safetensors: layers by name",
    ".npz": "NumPy: layers by name",
    ".tflite": "LiteRT (TensorFlow Lite) on phones, boards and microcontrollers",
    ".onnx": "ONNX Runtime and anything that reads ONNX",
    ".json": "how raw columns become the input, layer by layer to the output",
}


def _file_size(path: Path) -> str:
    try:
        return size_text(path.stat().st_size)
    except OSError:
        return NONE


def _devices_section(history: RunHistory) -> str:
    names = device_names(history.devices)
    rows = [
        [
            f"<b>{html.escape(names[device.device])}</b>",
            device.link,
            _whereabouts(device, history.now_s),
            f"{device.contributions:,}",
            size_text(device.bytes_up),
            size_text(device.bytes_down),
            epsilon_text(device.epsilon),
            _safe(device.note, 160),
        ]
        for device in interesting(history.devices, MOST_ROWS)
    ]
    headings = ("device", "link", "state", "rounds", "sent", "received", "epsilon", "last reason for declining")
    return _section("Devices", _long_table(headings, rows, len(history.devices), words=(0, 1, 2, 7)))


def _whereabouts(device: DeviceRecord, now_s: float) -> str:
    if device.state == "connected":
        return '<span class="on">connected</span>'
    return "away" if device.last_seen_s is None else f"away, seen {duration_text(now_s - device.last_seen_s)} ago"


def _rounds_section(history: RunHistory) -> str:
    rows = [
        [
            str(record.number),
            record.outcome if record.outcome == "committed" else f'<span class="off">{record.outcome}</span>',
            percent_text(record.accuracy),
            number_text(record.loss),
            number_text(record.update_l2),
            f"{record.accepted:,} of {record.cohort:,}",
            f"{record.declined:,}",
            duration_text(record.closed_at_s - record.opened_at_s),
        ]
        for record in history.rounds[: -MOST_ROWS - 1 : -1]
    ]
    headings = ("round", "outcome", "accuracy", "loss", "update norm", "answers", "declined", "time")
    return _section("Rounds", _long_table(headings, rows, len(history.rounds), words=(0, 1)))
