"""The work directory beside the output: finished stages survive a crash, refused builds leave nothing."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle.locking import locked
from edgellm_core.errors import EdgellmError, UserError
from edgellm_core.events import Listener, Reporter, peak_rss_mib, stage_events
from edgellm_core.pipeline.fingerprint import COMPUTING_PACKAGES, code_digest, digest_of, installed_versions
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import OWN_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edgellm_core.host import PluginHost

PREFIX: Final = ".edgellm-work-"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """What one stage did.

    Attributes:
        name: its name.
        seconds: wall-clock seconds, 0 when an earlier result was used.
        peak_rss_mib: highest resident set size while it ran.
        cached: an earlier result was used.
        result: what the stage returned; JSON values.
    """

    name: str
    seconds: float
    peak_rss_mib: float
    cached: bool
    result: Any


class Workspace:
    """Finished stages of one build, on disk.

    Whoever uses one holds the lock of its output: :func:`open_workspace`.

    Attributes:
        directory: the work directory, beside the place that the output's name leads to.
        bundle: the folder in it that becomes the output.
    """

    def __init__(self, out: Path) -> None:
        place = out.resolve()
        self.directory = place.with_name(f"{PREFIX}{place.name}")
        self.bundle = self.directory / "bundle"
        self._record = self.directory / "stages.json"

    @property
    def llm(self) -> Path:
        """Return the folder of the model inside the bundle, created if need be."""
        folder = self.bundle / "llm"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def finished(self, stage: str, fingerprint: str) -> Any:
        """Return the stored result of a stage, or None if it has none under this fingerprint."""
        stored = self._stages().get(stage)
        return stored["result"] if stored and stored["fingerprint"] == fingerprint else None

    def store(self, stage: str, fingerprint: str, result: Any) -> None:
        """Store the result of a stage."""
        stages = {**self._stages(), stage: {"fingerprint": fingerprint, "result": result}}
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps(stages), encoding="utf-8")
        temporary.replace(self._record)

    def remove(self) -> None:
        """Delete the work directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stages(self) -> dict[str, Any]:
        try:
            return read_json_object(self._record, OWN_FILE)
        except UserError:  # no record yet, or one that a crash cut short
            return {}


@contextmanager
def open_workspace(
    out: Path, check: Callable[[], None], *, use_cache: bool, wait: bool, listener: Listener
) -> Iterator[Workspace]:
    """Hold the lock of an output and its work directory while the body runs.

    Where the body ends without an error, or with one that makes finished stages worthless, the directory is removed.

    Args:
        out: the output.
        check: raises an error where the output can't be written; asked before and after waiting for others.
        use_cache: go on from what an earlier run left, instead of deleting it.
        wait: wait for a process that writes the same output, instead of refusing.
        listener: is told about that.

    Raises:
        OutputLockedError: another process writes the same output, and ``wait`` is false.
        OutputNotWritableError: the lock can't be made.
    """
    check()
    with locked(out, wait=wait, listener=listener):
        check()  # whoever had the lock may have published
        workspace = Workspace(out)
        if not use_cache:
            workspace.remove()
        try:
            yield workspace
        except EdgellmError as error:
            if not error.resumable:
                workspace.remove()
            raise
        workspace.remove()


@dataclass(kw_only=True)
class StageRunner:
    """Runs stages one after the other and tells listener and plugins about them.

    Attributes:
        host: plugins whose stage hooks are called.
        listener: receives the events.
        settings: what stage hooks are told.
        outcomes: the stages so far.
        values: returns a digest over the values of the weights that stages read; may wait for it.
    """

    host: PluginHost
    listener: Listener
    settings: Mapping[str, Any]
    outcomes: list[StageOutcome]
    values: Callable[[], str] = str

    def run(self, name: str, body: Callable[[Reporter], Any]) -> Any:
        """Run a stage and return what its body returns."""
        self.host.before_stage(name, self.settings)
        try:
            with stage_events(name, self.listener) as report:
                result = body(report)
        except BaseException as error:
            self.host.stage_failed(name, self.settings, error)
            raise
        self.outcomes.append(
            StageOutcome(
                name=name,
                seconds=round(report.seconds, 3),
                peak_rss_mib=round(peak_rss_mib(), 1),
                cached=False,
                result=result,
            )
        )
        self.host.after_stage(name, self.settings, report.seconds)
        return result

    def resume(
        self,
        name: str,
        workspace: Workspace,
        fingerprint: str,
        body: Callable[[Reporter], Any],
        *,
        reads_weights: bool = True,
    ) -> Any:
        """Run a stage unless the workspace holds its result; the body's result must be JSON values, not None.

        Args:
            name: of the stage.
            workspace: holds earlier results.
            fingerprint: over what the stage reads of settings and source. What may change any stage is added here, so
                that no stage can forget it: all loaded plugins, edgellm's own code, the versions of all packages that
                compute, and the values of the weights.
            body: runs the stage.
            reads_weights: False for a stage whose result no weight changes; it does not wait for their digest.
        """
        fingerprint = digest_of(
            name,
            fingerprint,
            self.host.digest,
            code_digest(),
            installed_versions(COMPUTING_PACKAGES),
            self.values() if reads_weights else "",
        )
        stored = workspace.finished(name, fingerprint)
        if stored is not None:
            self.cached(name, stored)
            return stored
        result = self.run(name, body)
        workspace.store(name, fingerprint, result)
        return result

    def note(self, name: str, message: str) -> None:
        """Say something about a stage that has ended, or whose earlier result was used."""
        Reporter(name, self.listener).note(message)

    def cached(self, name: str, result: Any) -> None:
        """Record that an earlier result of a stage was used."""
        reporter = Reporter(name, self.listener)
        reporter.emit("cached")
        self.outcomes.append(
            StageOutcome(name=name, seconds=0.0, peak_rss_mib=round(peak_rss_mib(), 1), cached=True, result=result)
        )


def outcome_fields(outcome: StageOutcome) -> dict[str, Any]:
    """Return an outcome as the manifest's stage record has it."""
    fields = asdict(outcome)
    del fields["result"]
    return fields
