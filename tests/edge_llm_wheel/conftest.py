"""Checkpoints of all cases and the wheel's exports of them, made once."""

from __future__ import annotations

import pytest
import torch

from tests.edge_llm_wheel.checkpoints import CASES, write_checkpoint
from tests.edge_llm_wheel.environment import find_python
from tests.edge_llm_wheel.wheel import export_all


@pytest.fixture(scope="session")
def wheel_python():
    """Return the interpreter that has the wheel."""
    python = find_python()
    assert python is not None
    return python


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Return the folder of each checkpoint, by case."""
    folder, threads = tmp_path_factory.mktemp("checkpoints"), torch.get_num_threads()
    torch.set_num_threads(1)  # two mostly wait for each other on models this small
    yield {case: write_checkpoint(folder, *case) for case in CASES}
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def theirs(wheel_python, checkpoints, tmp_path_factory):
    """Return the folder of each of the wheel's exports, by case."""
    folder = tmp_path_factory.mktemp("theirs")
    folders = {case: folder.joinpath(*case) for case in CASES}
    records = export_all(wheel_python, [(checkpoints[case], folders[case]) for case in CASES])
    assert {case: record["error"] for case, record in zip(CASES, records, strict=True) if record["error"]} == {}
    return folders
