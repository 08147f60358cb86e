"""What people see of a command's events."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from edgellm_core.cli.progress import LiveDisplay
from edgellm_core.cli.tables import print_table
from edgellm_core.events import stage_events

BRACKETS = 'Run: pip install "edgellm[rtx]" for [batch, seq] [/]'


@pytest.fixture
def shown():
    """Function from what a stage does to what is on the screen after it."""

    def run(body):
        stream = io.StringIO()
        display = LiveDisplay(Console(file=stream, width=100))
        with display.progress, stage_events("engine", display) as report:
            body(report)
        return stream.getvalue()

    return run


def test_notes_and_details_are_shown_as_they_are(shown):
    def body(report):
        report.note(BRACKETS)
        report.progress(1, 2, BRACKETS)

    lines = shown(body).splitlines()
    assert f"  {BRACKETS}" in lines
    assert any(line.startswith("✓ engine     ") for line in lines)


def test_tables_are_shown_as_they_are(capsys):
    table = Table("remedy", box=None)
    table.add_row(BRACKETS)
    print_table(table)
    assert BRACKETS in capsys.readouterr().out
