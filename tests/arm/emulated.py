"""A pytest plugin for runs under emulation, ten to twenty times slower than the processor: which tests say something
about another architecture, and with how many examples.

Kernels' tests run unless named here. Of the rest run those that could tell a 32-bit board from a laptop: arithmetic,
bytes on disk and on the wire, TLS, one whole federation.
"""

from fnmatch import fnmatch

import pytest

EXAMPLES = 8  # of a property, at most

INSTANCES = 3  # of a test with many parameters: the first, the last and between; golden weights are all compared

KERNELS_LEFT_OUT = {
    "exact arithmetic on tables, in Python alone": [
        "test_noise.py::test_the_tables_*",
        "test_noise.py::test_the_total_variation_*",
        "test_noise.py::test_the_documented_figures_*",
        "test_noise.py::test_the_digits_make_*",
    ],
    "an audit of the audit": ["::test_the_audit_*", "::test_low_bits_give_away_the_input_*"],
    "large samples of what the documented words already decide bit by bit": [
        "::test_samples_pass_*",
        "::test_samples_of_the_system_*",
        "test_shares.py::test_a_share_passes_*",
        "test_shares.py::test_shares_of_the_system_*",
        "test_shares.py::test_the_sum_*",
        "test_shares.py::test_too_few_*",
        "test_noise.py::test_neighbouring_values_*",
        "::test_the_widest_laws_*",
        "::test_low_bits_give_away_nothing_*",
    ],
    "thousands of exact sums": ["test_clipping.py::test_quantized_magnitudes_*", "test_clipping.py::test_a_million_*"],
}
OTHERS_RUN = [
    "runtime/test_channel.py::*",
    "runtime/test_device.py::*",
    "runtime/test_identity.py::*",
    "runtime/test_privacy.py::*",
    "runtime/test_messages.py::test_every_message_*",
    "runtime/test_ledger.py::*",
    "runtime/test_wire.py::test_a_value_comes_back_*",
    "end_to_end/test_small_fleet.py::*",
]
OTHERS_LEFT_OUT = ["runtime/test_ledger.py::*kill_9*"]  # processes started over and over


def _runs(nodeid: str) -> bool:
    def named(patterns: list[str]) -> bool:
        return any(fnmatch(nodeid, f"*{pattern}") for pattern in patterns)

    if "tests/native/" in nodeid:
        return not any(named(patterns) for patterns in KERNELS_LEFT_OUT.values())
    return named(OTHERS_RUN) and not named(OTHERS_LEFT_OUT)


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    last = len(items) - 1
    return [items[i] for i in sorted({last * step // (INSTANCES - 1) for step in range(INSTANCES)})]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    instances: dict[str, list[pytest.Item]] = {}
    for item in items:
        if _runs(item.nodeid):
            instances.setdefault(item.nodeid.partition("[")[0], []).append(item)
    chosen = [item for name, same in instances.items() for item in (same if "golden" in name else _spread(same))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
    for item in items:
        function = getattr(item, "obj", None)
        # Where hypothesis (Debian's 6.67) keeps what @given runs with.
        if (own := getattr(function, "_hypothesis_internal_use_settings", None)) is not None:
            fewer = min(own.max_examples, EXAMPLES)
            function._hypothesis_internal_use_settings = type(own)(own, max_examples=fewer, deadline=None)
