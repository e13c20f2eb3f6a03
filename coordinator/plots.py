"""The report's plots, and the page's style that they take their colours from: one drawing serves light and dark.

matplotlib draws with stand-in colours, which become CSS variables afterwards; text stays text. It is imported when the
first plot is drawn and without pyplot, so there is neither a global figure nor a display.
"""

from __future__ import annotations

import html
import io
import math
import re
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coordinator.view import device_names, epsilon_text, number_text, percent_text, plain, size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coordinator.history import Comparison, RunHistory

INK, MUTED, GRID, UP, DOWN, PALE = (f"#0{index}0{index}0{index}" for index in range(1, 7))
_PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    UP: "var(--a)",
    DOWN: "var(--b)",
    PALE: "var(--pale)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedge",  # the same history gives the same bytes
    "text.parse_math": False,  # a "$" in a device's name is a dollar sign
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.06,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 3,
}
MOST_BARS = 30
# The page around the plots; its variables are the colours above, once for light and once for dark.
PAGE_STYLE = """
:root{color-scheme:light dark;--page:#f6f6f3;--card:#fff;--ink:#1b2430;--muted:#64707d;--line:#dfe2e0;
--a:#0f7c77;--b:#d08a2e;--pale:#b9c6c9;--warn:#a3481f}
@media(prefers-color-scheme:dark){:root{--page:#11161b;--card:#182027;--ink:#e4e9ec;--muted:#93a1ac;--line:#2b363f;
--a:#3fb8ae;--b:#e2a654;--pale:#4a5a64;--warn:#f0936a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1060px;margin:0 auto;padding:48px 24px 80px}
.kicker{margin:0;color:var(--a);font-size:13px;font-weight:600;letter-spacing:.06em;text-transform:uppercase}
h1{margin:.15em 0 .3em;font-size:clamp(28px,4.4vw,42px);line-height:1.12;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{margin:0 0 14px;font-size:22px;letter-spacing:-.01em}
h3{margin:28px 0 6px;font-size:16px}
.lede{max-width:46em;margin:0 0 .5em;font-size:18px}
.meta,.note,figcaption{color:var(--muted);font-size:14px}
p,li{max-width:50em;overflow-wrap:anywhere;text-wrap:pretty}
sup{line-height:0}
section{margin-top:22px;padding:26px 28px;background:var(--card);border:1px solid var(--line);border-radius:12px}
.tiles{display:grid;grid-template-columns:repeat(6,1fr);gap:1px;margin:28px 0 0;overflow:hidden;
background:var(--line);border:1px solid var(--line);border-radius:12px}
.tiles div{padding:16px 18px;background:var(--card)}
.tiles dt{color:var(--muted);font-size:13px}
.tiles dd{margin:2px 0 0;font-size:26px;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;white-space:nowrap}
.tiles p{margin:2px 0 0;color:var(--muted);font-size:13px;line-height:1.35}
@media(max-width:860px){.tiles{grid-template-columns:repeat(3,1fr)}}
@media(max-width:480px){.tiles{grid-template-columns:repeat(2,1fr)}section{padding:20px 16px}}
figure{margin:0 0 18px;min-width:0}
figure{overflow-x:auto}
figure svg{display:block;width:100%;height:auto;stroke-linejoin:round}
figure svg.wide{min-width:560px}
figcaption{margin-top:6px;max-width:52em}
section>:last-child{margin-bottom:0}
.two{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:28px;margin-top:24px}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:8px 24px;margin:0}
.facts dt{color:var(--muted)}
.facts dd{margin:0;max-width:44em}
@media(max-width:560px){.facts{grid-template-columns:1fr}.facts dd{margin-bottom:8px}}
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}
th{padding:6px 18px 6px 0;color:var(--muted);font-weight:500;text-align:left;vertical-align:bottom;white-space:nowrap}
td{padding:6px 18px 6px 0;border-top:1px solid var(--line);vertical-align:top}
td:not(:last-child){white-space:nowrap}
th.n,td.n{text-align:right}
th.n,td.n{padding-right:28px}
th:last-child,td:last-child{padding-right:0}
td b{font-weight:600}
details{margin-top:10px}
summary{color:var(--a);font-size:14px;cursor:pointer}
.on{color:var(--a)}.off{color:var(--warn)}
code{font:13px ui-monospace,SFMono-Regular,Menlo,monospace}
@media print{section{break-inside:avoid;border:0;padding:0}body{background:none}}
"""


def comparison_plot(comparisons: Sequence[Comparison]) -> str:
    """A bar for each way to train: its accuracy, or its loss where nobody has an accuracy."""
    scored = any(row.accuracy is not None for row in comparisons)
    values = [(row.accuracy or 0.0) if scored else _finite(row.loss) for row in comparisons]
    texts = [percent_text(row.accuracy) if scored else number_text(row.loss) for row in comparisons]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        places = range(len(values))
        axes.barh(places, values, color=[PALE if row.epsilon is None else UP for row in comparisons], height=0.62)
        axes.set_yticks(places, [plain(row.label, 40) for row in comparisons])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.12 if scored else (1.15 * max((v for v in values if v == v), default=0) or 1))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        for place, value, text in zip(places, values, texts, strict=True):
            axes.annotate(text, (0 if math.isnan(value) else value, place), (5, 0), **_BESIDE)

    what = "Accuracy" if scored else "Loss"
    label = f"{what} by way of training: " + "; ".join(
        f"{plain(row.label, 40)} {text}" for row, text in zip(comparisons, texts, strict=True)
    )
    return _svg(draw, width=8.4, height=0.5 + 0.34 * max(len(values), 1), label=label)


def learning_plot(history: RunHistory) -> str:
    """Accuracy and loss on the evaluation set after each committed round; crosses mark abandoned ones."""
    done = [record for record in history.rounds if record.outcome == "committed"]
    curves: list[tuple[str, list[float], str, Callable[[float], str]]] = []
    if any(record.accuracy is not None for record in done):
        curves.append(("Accuracy", [_finite(record.accuracy) for record in done], UP, percent_text))
    if any(record.loss is not None for record in done):
        curves.append(("Loss", [_finite(record.loss) for record in done], DOWN, number_text))
    abandoned = [record.number for record in history.rounds if record.outcome == "abandoned"]

    def draw(figure: Figure) -> None:
        for axes, (name, values, colour, text) in zip(_row(figure, len(curves)), curves, strict=True):
            numbers = [record.number for record in done]
            marker = "o" if len(done) < 40 else None
            axes.plot(numbers, values, color=colour, linewidth=1.8, marker=marker, markersize=2.8)
            axes.set_title(name)
            axes.set_xlabel("round")
            _whole_numbers(axes)
            _ticks(axes.yaxis, percent_text if text is percent_text else "{:g}".format)
            axes.grid(axis="y")
            if math.isfinite(values[-1]):
                axes.annotate(text(values[-1]), (numbers[-1], values[-1]), (6, 0), **_BESIDE)
            axes.plot(
                abandoned, [0.02] * len(abandoned), "x", color=MUTED, markersize=4, transform=axes.get_xaxis_transform()
            )

    if not curves:
        return ""
    return _svg(draw, width=8.4, height=2.5, label="Accuracy and loss on the evaluation set, round by round")


def epsilon_plot(history: RunHistory) -> str:
    """Epsilon spent up to each round by a device that takes part in all of them; dashes where the fleet stands."""
    if history.task.privacy.place == "none" or not history.rounds:
        return ""
    step = history.task.privacy.noise().event.epsilon
    numbers, spent, total = [0], [0.0], 0.0
    for index, record in enumerate(history.rounds, start=1):
        total += step if record.accepted else 0.0
        numbers.append(index)
        spent.append(total)
    fleet = [device.epsilon for device in history.devices if device.epsilon is not None]
    stands = [("most", max(fleet)), ("median", statistics.median(fleet))] if fleet else []
    if len({value for _, value in stands}) == 1:
        stands = [("every device", stands[0][1])]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.fill_between(numbers, spent, step="post", color=UP, alpha=0.12, linewidth=0)
        axes.step(numbers, spent, where="post", color=UP, linewidth=1.8)
        for name, value in stands:
            axes.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{name} {epsilon_text(value)}", (0, value), (4, 2), xycoords=("axes fraction", "data"), **_ABOVE
            )
        axes.set_title("Epsilon spent, cumulative")
        axes.set_xlabel("rounds tried")
        axes.set_ylim(0, 1.12 * max(total, *(value for _, value in stands), step))
        axes.set_xlim(0, max(len(history.rounds), 1))
        _whole_numbers(axes)
        axes.grid(axis="y")

    return _svg(draw, width=4.1, height=2.6, label=f"Epsilon spent by a device in every round: {epsilon_text(total)}")


def norm_plot(history: RunHistory) -> str:
    """The norm of each aggregated update beside the norm that the noise alone is expected to have."""
    done = [record for record in history.rounds if record.update_l2 is not None and record.accepted]
    privacy, parameters = history.task.privacy, history.task.model.parameter_count
    if privacy.place == "none" or not done:
        return ""
    noise, local = privacy.noise(), privacy.place == "local"
    expected = [noise.expected_noise_l2(parameters, record.accepted, local=local) for record in done]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        numbers, norms = [record.number for record in done], [_finite(record.update_l2) for record in done]
        axes.plot(numbers, norms, color=DOWN, linewidth=1.8, label="update, with its noise")
        axes.plot(numbers, expected, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="noise alone, expected")
        axes.set_title("Norm of the mean update")
        axes.set_xlabel("round")
        axes.set_ylim(0, 1.3 * max([*expected, *(norm for norm in norms if norm == norm)]))
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper left", handlelength=1.6, borderaxespad=0)
        _whole_numbers(axes)
        axes.grid(axis="y")

    return _svg(draw, width=4.1, height=2.6, label="L2 norm of the mean update and of the noise in it, round by round")


def bytes_plot(history: RunHistory) -> str:
    """Bytes each device sent and received: bars for a small fleet, ranked profiles by link for a large one."""
    devices = sorted(history.devices, key=lambda d: (d.link, -d.bytes_up - d.bytes_down))
    if not devices:
        return ""
    links = sorted({device.link for device in devices})
    few = len(devices) <= MOST_BARS
    names = device_names(history.devices)

    def bars(figure: Figure) -> None:
        axes = figure.subplots()
        places = [place + 0.6 * links.index(device.link) for place, device in enumerate(devices)]
        up = [device.bytes_up for device in devices]
        axes.barh(places, up, color=UP, height=0.66, label="sent")
        axes.barh(places, [d.bytes_down for d in devices], left=up, color=DOWN, height=0.66, label="received")
        axes.set_yticks(places, [f"{names[device.device]} · {device.link}" for device in devices])
        axes.set_ylim(places[-1] + 0.8, -0.8)
        _ticks(axes.xaxis, size_text)
        axes.grid(axis="x")
        axes.legend(frameon=False, fontsize=8, loc="lower right")

    def profiles(figure: Figure) -> None:
        all_axes = _row(figure, len(links), sharey=True)
        for axes, link in zip(all_axes, links, strict=True):
            ranked = [device for device in devices if device.link == link]
            every = math.ceil(len(ranked) / 200)  # more steps than pixels only make the file larger
            drawn = ranked[::every]
            edges = range(0, every * len(drawn) + 1, every)
            up, both = [d.bytes_up for d in drawn], [d.bytes_up + d.bytes_down for d in drawn]
            axes.stairs(up, edges, color=UP, fill=True, label="sent")
            axes.stairs(both, edges, baseline=up, color=DOWN, fill=True, label="received")
            axes.set_title(f"{link}: {len(ranked)}")
            axes.set_xlabel("devices, busiest first")
            _whole_numbers(axes)
            axes.grid(axis="y")
            _ticks(axes.yaxis, size_text)
        all_axes[-1].legend(frameon=False, fontsize=8, loc="upper right")

    height = 0.7 + 0.22 * len(devices) if few else 2.8
    return _svg(bars if few else profiles, width=8.4, height=height, label="Bytes sent and received, device by device")


_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "ha": "left", "annotation_clip": False}
_ABOVE: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "ha": "left", "color": MUTED, "fontsize": 8}


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.nan


def _row(figure: Figure, count: int, *, sharey: bool = False) -> list[Axes]:
    return list(figure.subplots(1, count, sharey=sharey, squeeze=False)[0])


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _ticks(axis: Any, text: Callable[[float], str]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(lambda value, _: text(value).replace(".0 ", " "))


def _svg(draw: Callable[[Figure], None], *, width: float, height: float, label: str) -> str:
    """What ``draw`` draws, as an ``<svg>`` element to stand in a page: ids of its own, colours and fonts the page's."""
    import matplotlib
    from matplotlib.figure import Figure

    file = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A name in a script that the measuring font lacks is measured a little wrong; the browser has the glyph.
        warnings.simplefilter("ignore", UserWarning)
        figure = Figure(figsize=(width, height))
        draw(figure)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _for_the_page(file.getvalue(), label, "wide" if width > 5 else "half")


def _for_the_page(drawing: str, label: str, kind: str) -> str:
    """Only tags are rewritten: between them stands text that devices chose, and matplotlib has escaped it."""
    prefix = re.sub(r"\W+", "-", label.lower())[:16]

    def adapted(tag: re.Match[str]) -> str:
        text = tag[0].replace("font-family: 'DejaVu Sans'; ", "").replace("xlink:href", "href")
        for stand_in, colour in _PAGE_COLOURS.items():
            text = text.replace(stand_in, colour)
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text)

    opening = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', drawing)
    assert opening is not None
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", drawing[opening.end() :], flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", adapted, body)
    return f'<svg class="{kind}" viewBox="{opening[1]}" role="img" aria-label="{html.escape(label)}">{body.strip()}'
