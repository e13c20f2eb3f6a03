"""The documents say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from coordinator.round import TRANSITIONS as ROUND_TRANSITIONS
from edge_runtime.architecture import Dense
from edge_runtime.device import TRANSITIONS as DEVICE_TRANSITIONS
from edge_runtime.main import main
from edge_runtime.policy import Policy
from edge_runtime.tables import from_mapping
from edge_runtime.task import CohortSpec, InputSpec, ModelSpec, PrivacySpec, Task, TrainingSpec, WindowSpec

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def drawn(transitions: dict) -> str:
    rows = [f"| {state} | {event} | {after} |" for (state, event), after in transitions.items()]
    return "\n".join(["| state | event | next |", "|---|---|---|", *rows])


@pytest.mark.parametrize("transitions", [DEVICE_TRANSITIONS, ROUND_TRANSITIONS], ids=["device", "round"])
def test_the_protocol_page_shows_the_state_tables_of_the_code(transitions: dict) -> None:
    assert drawn(transitions) in (ROOT / "docs" / "protocol.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_words_in_documents_exist(document: Path) -> None:
    words = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"```console\n(.*?)```|`([^`\n]+)`", document.read_text(), re.DOTALL)
    used = {word for pair in code for word in re.findall(r"\bmake ([a-z-]+)", " ".join(pair))}
    assert used <= words, f"{document.name} names {used - words}"


def test_commands_in_the_readme_are_understood_by_the_programs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"fedge ((?:coordinator|device|bridge) [a-z]+|demo|simulate)", text))
    assert len(commands) > 10
    for command in sorted(commands):
        with pytest.raises(SystemExit) as end:
            main([*command.split(), "--help"])
        assert end.value.code == 0, command
        assert f"fedge {command}" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_example_tasks_are_valid(path: Path) -> None:
    from_mapping(Task, tomllib.loads(path.read_text()), where=path.name)


def test_every_key_of_a_task_and_of_a_policy_is_documented() -> None:
    text = (ROOT / "docs" / "tasks.md").read_text()
    for table in (Task, InputSpec, WindowSpec, ModelSpec, Dense, TrainingSpec, PrivacySpec, CohortSpec, Policy):
        for key in table.__dataclass_fields__:
            assert re.search(rf"`[^`]*\b{key}\b[^`]*`", text), f"docs/tasks.md does not explain {key}"
