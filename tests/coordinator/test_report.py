"""The report as a browser reads it: well formed, self-contained, harmless, and right in its numbers."""

import builtins
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the report shares its wording with the live view, which needs rich")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from coordinator.history import Comparison, DeviceRecord, RoundRecord, RunHistory
from coordinator.noise_figures import NoiseFigures
from coordinator.report import report_html, write_report
from edge_runtime.architecture import Dense
from edge_runtime.privacy.accountant import composed_epsilon
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, WindowSpec

VOID = {"meta", "br", "use", "path", "rect", "line", "circle"}
HOSTILE = "</td></svg></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'&$x^2$\x1b[2J\u202e\x00<!--"


def a_task(place="central", *, epsilon=1.0, name="gait", classes=("walk", "run"), rounds=20) -> Task:
    inputs = InputSpec(columns=("x", "y"), label="activity", classes=classes, window=WindowSpec(8, 4))
    outputs, loss = (len(classes), "softmax_cross_entropy") if classes else (1, "mse")
    return Task(
        name=name,
        rounds=rounds,
        inputs=inputs,
        model=ModelSpec(inputs.features, (Dense(6, "relu"), Dense(outputs)), loss),
        privacy=PrivacySpec(place=place, clip_norm=2.0, epsilon=epsilon),
        cohort=CohortSpec(size=10),
    )


def a_round(number: int, **changes) -> RoundRecord:
    record = RoundRecord(number, "committed", 100.0 * number, 100.0 * number + 4, 10, 9, 1, 1.5, 0.4, 0.9)
    return replace(record, **changes)


def a_device(number: int, **changes) -> DeviceRecord:
    link = ("tcp", "serial", "none")[number % 3]
    device = DeviceRecord(f"{number:032x}", f"device-{number}", link, "connected", 1.0, 3, 2048, 4096, 3.0, "")
    return replace(device, **changes)


def a_history(*, task: Task | None = None, rounds=(), devices=(), **changes) -> RunHistory:
    history = RunHistory("t1", task or a_task(), 100.0, 700.0, "finished", None, tuple(rounds), tuple(devices))
    return replace(history, **changes)


def a_run(rounds: int = 20, devices: int = 12, **task) -> RunHistory:
    return a_history(
        task=a_task(**task),
        rounds=[a_round(n + 1) for n in range(rounds)],
        devices=[a_device(n) for n in range(devices)],
    )


COMPARISONS = [Comparison("pooled", 0.95, 0.2, None, "all in one place"), Comparison("this run", 0.9, 0.4, 20.0, "")]


class Page(HTMLParser):
    """Checks nesting while it reads; collects tags, attributes, ids and text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.style = ""
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag in {"path", "use", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def read(history: RunHistory, comparisons=(), **options) -> Page:
    return Page(report_html(history, comparisons, **options))


RUNS = {
    "a usual run": a_run(),
    "local noise": a_run(place="local"),
    "no mechanism": a_run(place="none"),
    "nothing has happened": a_history(),
    "devices but no rounds": a_history(devices=[a_device(1)]),
    "only abandoned rounds": a_history(
        rounds=[a_round(1, outcome="abandoned", accepted=0, update_l2=None, loss=None, accuracy=None)]
    ),
    "no evaluation": a_history(rounds=[a_round(n, loss=None, accuracy=None) for n in (1, 2)], devices=[a_device(1)]),
    "a regression": a_history(task=a_task(classes=()), rounds=[a_round(n, accuracy=None) for n in (1, 2)]),
    "diverged": a_history(rounds=[a_round(1, loss=math.nan, update_l2=math.inf), a_round(2, loss=math.inf)]),
    "zero bytes": a_history(devices=[a_device(n, bytes_up=0, bytes_down=0, contributions=0) for n in range(3)]),
    "large": a_run(1000, 1000),
}


@pytest.mark.parametrize("history", RUNS.values(), ids=RUNS.keys())
def test_any_run_gives_a_well_formed_page_that_fetches_and_runs_nothing(history):
    page = read(history, COMPARISONS)
    assert page.count("h1") == 1
    assert page.count("script") == page.count("img") == page.count("link") == page.count("iframe") == 0
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "src", "xlink:href"}:
                assert value.startswith("#"), "only references within the page"
            assert "url(" not in (value or "") or "url(#" in value
    assert "http" not in page.style
    assert "@import" not in page.style
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("history", RUNS.values(), ids=RUNS.keys())
def test_ids_are_unique_and_every_reference_finds_its_target(history):
    page = read(history, COMPARISONS)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        for value in attributes.values():
            for reference in re.findall(r"^#(.+)$|url\(#([^)]+)\)", value or ""):
                assert (reference[0] or reference[1]) in ids
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_names_from_devices_stay_text():
    device = a_device(1, name=HOSTILE, note=HOSTILE, device=HOSTILE)
    task = a_task(name=HOSTILE[:80], classes=(HOSTILE[:80], "b"))
    history = a_history(
        task=task, rounds=[a_round(1)], devices=[device], finished_because=HOSTILE, task_id=HOSTILE[:40]
    )
    source = report_html(history, [Comparison(HOSTILE, 0.5, 0.1, None, HOSTILE)], model_files=[Path("/x/<b>\x1b.json")])
    page = Page(source)
    assert page.count("script") == page.count("img") == 0
    assert "</td></svg></style><script" in page.text, "shown as it is written"
    assert not set("\x00\x1b\u202e") & set(source)


def test_light_and_dark_share_every_drawing():
    page = read(a_run(), COMPARISONS)
    assert page.count("svg") == 5
    assert "prefers-color-scheme:dark" in page.style
    colours = {
        value for _, attributes in page.tags for value in re.findall(r"#[0-9a-f]{6}\b", attributes.get("style") or "")
    }
    assert colours == set(), "no colour of its own in any drawing"
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]


def test_the_same_run_gives_the_same_bytes():
    assert report_html(a_run(), COMPARISONS) == report_html(a_run(), COMPARISONS)


def test_a_glyph_that_no_font_has_does_not_stop_the_report():
    assert "温度计" in read(a_history(devices=[a_device(1, name="温度计 $3")])).text


def test_the_headline_numbers_are_those_of_the_run():
    history = a_run(20, 12)
    history = replace(history, rounds=(*history.rounds[:-1], a_round(20, accuracy=0.875)))
    text = read(history).text
    assert "12 devices trained one model to tell 2 classes apart, in 20 rounds" in text
    assert "87.5 %" in text
    assert "best 90.0 %" in text
    assert "73.7 kB" in text, "12 x (2048 + 4096) bytes"
    assert "44parameters" in text


def test_the_privacy_section_names_the_mechanism_with_the_numbers_of_the_task():
    text = read(a_run(20, 12)).text
    noise = a_task().privacy.noise()
    assert f"{noise.levels:,} grid steps in L1" in text
    assert "2 in L1" in text
    assert re.search(r"1\.00; delta below 10−1[0-9]", text), "the sampler's distance from its law is stated"
    assert (
        f"{math.ceil(composed_epsilon([noise.event] * 20) * 100) / 100:.2f} for one that answered in all 20 rounds"
        in text
    )
    assert "replaced by zero" in text
    for heading in ("Taking part.", "Timing and sizes.", "Single updates, to the coordinator.", "The evaluation."):
        assert heading in text


def test_a_large_epsilon_is_not_sold_as_a_strong_guarantee():
    spent = [a_device(1, epsilon=30.0)]
    assert "bound on paper" in read(replace(a_run(), devices=tuple(spent))).text
    assert "bound on paper" not in read(a_run()).text


def test_without_a_mechanism_no_guarantee_is_claimed():
    text = read(a_run(place="none")).text
    assert "no privacy mechanism" in text
    assert "no privacy guarantee" in text
    assert "delta below" not in text


@pytest.mark.parametrize("place", ["central", "local"])
def test_noise_and_update_are_told_apart_in_the_mean_square(place):
    history = a_run(place=place)
    noise = history.task.privacy.noise()
    expected = noise.expected_noise_l2(44, 9, local=place == "local")
    rounds = [a_round(n, update_l2=math.hypot(expected, 0.5 * expected)) for n in range(1, 21)]
    figures = NoiseFigures.of(replace(history, rounds=tuple(rounds)))
    assert figures.signal_l2 == pytest.approx(0.5 * expected)
    assert figures.contributors == 9
    assert figures.noise_l2(4400) == pytest.approx(10 * expected)
    assert figures.epsilon_needed(44) == pytest.approx(2 * noise.event.epsilon)
    enough = figures.devices_needed(44)
    assert noise.expected_noise_l2(44, enough, local=place == "local") <= figures.update_l2
    assert noise.expected_noise_l2(44, enough - 1, local=place == "local") > figures.update_l2


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.01])
def test_an_update_that_could_be_noise_is_said_to_be(factor):
    history = a_run()
    expected = history.task.privacy.noise().expected_noise_l2(44, 9, local=False)
    history = replace(history, rounds=tuple(a_round(n, update_l2=factor * expected) for n in range(1, 21)))
    figures = NoiseFigures.of(history)
    assert figures.signal_l2 is None
    assert figures.update_l2 == 2.0, "then the clip norm bounds it"
    text = read(history).text
    assert "cannot be told from noise alone" in text
    assert "devices needed, at least" in text


def test_of_a_thousand_devices_a_few_are_in_sight_and_the_rest_folded():
    page = read(a_run(3, 1000))
    assert page.count("details") == 1
    assert "988 more" in page.text
    assert "device-999" in page.text


def test_model_files_are_listed_with_their_sizes_and_a_missing_one_with_a_dash(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"x" * 1500)
    text = read(a_run(), model_files=[tmp_path / "model.tflite", tmp_path / "model.json"]).text
    assert "model.tflite1.5 kBLiteRT" in text
    assert "model.json–" in text


def test_the_file_appears_whole_and_replaces_the_last_one(tmp_path):
    folder = tmp_path / "new" / "run"
    assert write_report(folder, a_run(), COMPARISONS) == folder / "report.html"
    first = (folder / "report.html").read_text(encoding="utf-8")
    write_report(folder, a_history(), [])
    second = (folder / "report.html").read_text(encoding="utf-8")
    assert first.endswith("</html>\n")
    assert second.endswith("</html>\n")
    assert first != second
    assert [path.name for path in folder.iterdir()] == ["report.html"]


def test_without_matplotlib_the_tables_have_to_do(monkeypatch):
    real = builtins.__import__

    def refusing(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refusing)
    page = read(a_run(), COMPARISONS)
    assert page.count("svg") == page.count("figure") == 0
    assert page.count("table") >= 5
