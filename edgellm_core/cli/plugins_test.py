"""``edgellm plugins test``: the conformance kit on families."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from edgellm_core.cli.errors import MissingPytestError

KIT: Final = "edgellm_core.testing.conformance"
PYTEST_PLUGIN: Final = "edgellm_core.testing.pytest_plugin"


@click.command("test")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--level", type=click.IntRange(0, 4), default=1, show_default=True, help="Highest level of checks.")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder of plugins."
)
@click.option("--junit", type=click.Path(path_type=Path), help="Write the results as JUnit XML.")
@click.option("--weights", multiple=True, metavar="MODEL=DIR", help="Where a model's weights are, for level 4.")
@click.option("--download", is_flag=True, help="Let level 4 download weights.")
@click.option("--record", type=click.Path(path_type=Path), help="Folder for records of models that pass level 4.")
@click.option("-k", "expression", metavar="EXPRESSION", help="Run only the checks that match, as pytest's -k.")
def run_kit(
    names: tuple[str, ...],
    *,
    level: int,
    plugin_paths: tuple[Path, ...],
    junit: Path | None,
    weights: tuple[str, ...],
    download: bool,
    record: Path | None,
    expression: str | None,
) -> None:
    """Run the conformance kit on families: NAME is a family or a plugin; none means all families.

    Levels: 0 static, 1 the tiny model on the CPU, 2 quantized, 3 an engine, 4 real weights.
    """
    if importlib.util.find_spec("pytest") is None:
        raise MissingPytestError
    arguments = ["--edgellm-level", str(level)]
    arguments += [f"--edgellm-family={name}" for name in names]
    arguments += [f"--edgellm-plugin-path={path.resolve()}" for path in plugin_paths]
    arguments += [f"--edgellm-weights={entry}" for entry in weights]
    arguments += ["--edgellm-download"] if download else []
    arguments += [f"--edgellm-record={record.resolve()}"] if record else []
    arguments += [f"--junitxml={junit.resolve()}"] if junit else []
    arguments += ["-k", expression] if expression else []
    done = subprocess.run([*kit_command(), *arguments], check=False)
    sys.exit(done.returncode)


def kit_command() -> list[str]:
    """Return the command that runs the kit, whatever configuration of pytest lies around."""
    found = importlib.util.find_spec(KIT.rpartition(".")[0])
    assert found is not None  # for mypy: it is a part of this package
    assert found.submodule_search_locations is not None
    folder = Path(next(iter(found.submodule_search_locations))) / KIT.rpartition(".")[2]
    isolated = ["-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", "-p", kit_plugin_name()]
    return [sys.executable, "-m", "pytest", *isolated, "-ra", "--tb=short", str(folder)]


def kit_plugin_name() -> str:
    """Return what ``-p`` has to name: the entry point where there is one, since pytest refuses a plugin's second name.

    A source tree whose installed metadata is older than the entry point has only the module.
    """
    entry_points = importlib.metadata.entry_points(group="pytest11")
    return next((point.name for point in entry_points if point.value == PYTEST_PLUGIN), PYTEST_PLUGIN)
