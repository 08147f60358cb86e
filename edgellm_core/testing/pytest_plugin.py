"""The pytest plugin of the conformance kit: options, parametrisation over families, strict skips and xfails.

pytest loads it in every environment where edgellm is installed, so importing it imports nothing but pytest, and without
an option of its own or a check of the kit it does nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from edgellm_core.testing.kit.marker import CHECK

if TYPE_CHECKING:
    from collections.abc import Generator

    from edgellm_core.testing.kit.case import Case
    from edgellm_core.testing.kit.plan import Plan

NOTE: Final = "edgellm-note"
"""User property of a check: something that its reader should know."""

HIGHEST_LEVEL: Final = 4

_plan: Final = pytest.StashKey["Plan"]()

pytest.register_assert_rewrite("edgellm_core.testing.conformance")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the kit's options."""
    group = parser.getgroup("edgellm", "conformance kit of edgellm")
    add, levels = group.addoption, range(HIGHEST_LEVEL + 1)
    add("--edgellm-family", action="append", default=[], metavar="NAME", help="Family to check; may be given again.")
    add("--edgellm-level", type=int, default=1, choices=levels, metavar="N", help="Highest level, 0 to 4 (1).")
    add("--edgellm-plugin-path", action="append", default=[], metavar="DIR", help="Folder with plugins.")
    add("--edgellm-weights", action="append", default=[], metavar="MODEL=DIR", help="Where a model's weights lie (L4).")
    add("--edgellm-download", action="store_true", help="Let level 4 download weights.")
    add("--edgellm-record", metavar="DIR", help="Write a record of each model that passes level 4 into DIR.")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the object that counts what ran."""
    config.addinivalue_line("markers", f"{CHECK}(level, per): a check of edgellm's conformance kit")
    config.pluginmanager.register(Tally(), "edgellm-tally")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """List families and broken packs, where this run is about them."""
    if not config.getoption("edgellm_family") and not config.getoption("edgellm_plugin_path"):
        return []
    plan = plan_of(config)
    lines = [f"families: {', '.join(plan.names())}; levels 0 to {config.getoption('edgellm_level')}"]
    return [f"edgellm: {line}" for line in [*lines, *plan.broken()]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a case of a check for every family, or for every model of the family in the registry."""
    marker = metafunc.definition.get_closest_marker(CHECK)
    if marker is not None:
        check = metafunc.definition.name.removeprefix("test_")
        metafunc.parametrize("edgellm_case", plan_of(metafunc.config).cases(check, **marker.kwargs), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the checks above the highest level."""
    highest = config.getoption("edgellm_level")
    above = [item for item in items if (marker := item.get_closest_marker(CHECK)) and marker.kwargs["level"] > highest]
    if above:
        config.hook.pytest_deselected(items=above)
        items[:] = [item for item in items if item not in above]


@pytest.fixture
def edgellm_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """One check on one family or model; the checks of a family share its tiny model, which is built on demand."""
    case: Case = plan_of(request.config).open(request.param, tmp_path_factory)
    case.tell = lambda text: request.node.user_properties.append((NOTE, text))
    return case


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip whose reason is not in the closed set into a failure."""
    report = yield
    if item.get_closest_marker(CHECK) and is_skipped(report) and skip_reason(report) is None:
        report.outcome = "failed"
        report.longrepr = (
            f"This check was skipped with a reason that the conformance kit does not know: {skip_text(report)!r}. "
            "Skip with edgellm_core.testing.kit.skips.skip and one of its reasons."
        )
    return report


def plan_of(config: pytest.Config) -> Plan:
    """Return what this run checks, from its options; plugins are discovered once."""
    if _plan not in config.stash:
        from edgellm_core.testing.kit.plan import Plan

        config.stash[_plan] = Plan.from_config(config)
    return config.stash[_plan]


class Tally:
    """Counts the kit's checks; a run in which all of them were skipped fails.

    Attributes:
        ran: checks that passed, failed, or failed as expected.
        skipped: reason → number of checks.
        notes: check and what it said.
    """

    def __init__(self) -> None:
        self.ran = 0
        self.skipped: dict[str, int] = {}
        self.notes: list[tuple[str, str]] = []

    @property
    def nothing_ran(self) -> bool:
        """Whether there were checks and all were skipped."""
        return bool(self.skipped) and not self.ran

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count one report."""
        if CHECK not in report.keywords:
            return
        if is_skipped(report):
            reason = skip_reason(report) or "unknown reason"
            self.skipped[reason] = self.skipped.get(reason, 0) + 1
        elif report.when == "call" or report.failed:
            self.ran += 1
            name = report.nodeid.rpartition("[")[2].rstrip("]")
            self.notes += [(name, str(text)) for key, text in report.user_properties if key == NOTE]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that proved nothing."""
        if self.nothing_ran:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print notes, and why a run that proved nothing failed."""
        for name, text in self.notes:
            terminalreporter.write_line(f"{name}: {text}")
        if self.nothing_ran:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self.skipped.items())
            terminalreporter.write_line(
                f"edgellm: every check was skipped, so nothing was proved: {reasons}.", red=True, bold=True
            )


def is_skipped(report: pytest.TestReport) -> bool:
    """Say whether a check was skipped; a check that failed as expected was not."""
    return report.skipped and not hasattr(report, "wasxfail")


def skip_text(report: pytest.TestReport) -> str:
    """Return the reason of a skip as it was written."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def skip_reason(report: pytest.TestReport) -> str | None:
    """Return the reason of a skip if it is one of the closed set."""
    from edgellm_core.testing.kit.skips import reason_of

    reason = reason_of(skip_text(report))
    return reason.value if reason else None
