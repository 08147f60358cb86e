"""``edgellm engine``: build a TensorRT engine from a bundle's graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgellm_core.cli.options import wait_option
from edgellm_core.engine.backend import ENGINE_CHOICES

if TYPE_CHECKING:
    from edgellm_core.engine.backend import EngineChoice


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--engine",
    "choice",
    type=click.Choice([choice for choice in ENGINE_CHOICES if choice != "none"]),
    default="auto",
    show_default=True,
    help="Package to build with.",
)
@click.option("--sm", type=int, metavar="N", help="Compute capability to build for, for example 89 or 120.")
@click.option("--max-batch-size", type=int, metavar="N", help="Sequences at once. [default: 1]")
@click.option("--max-input-len", type=int, metavar="N", help="Tokens of a prompt. [default: 1024, or the context]")
@click.option("--max-seq-len", type=int, metavar="N", help="Prompt and answer. [default: 4096, or the context]")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
)
@wait_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each event.")
@click.option("--no-check", is_flag=True, help="Skip the digests of the bundle's files.")
def engine(
    *,
    bundle: Path,
    choice: EngineChoice,
    sm: int | None,
    max_batch_size: int | None,
    max_input_len: int | None,
    max_seq_len: int | None,
    plugin_paths: tuple[Path, ...],
    as_json: bool,
    no_check: bool,
    wait: bool,
) -> None:
    """Build a TensorRT engine from the graph of BUNDLE and put it into the bundle.

    TensorRT-RTX builds for any RTX GPU without having one; TensorRT builds for the GPU that is there.
    """
    from edgellm_core.bundle import load_bundle
    from edgellm_core.bundle.locking import locked
    from edgellm_core.bundle.plugins import target_of
    from edgellm_core.cli.progress import listening
    from edgellm_core.engine.backend import choose_backend
    from edgellm_core.engine.bundle_engine import add_engine, bundle_limits
    from edgellm_core.engine.errors import NoBackendError
    from edgellm_core.engine.form import engine_form
    from edgellm_core.events import stage_events
    from edgellm_core.host import PluginHost

    load_bundle(bundle, check_digests=False)  # what is no bundle needs no lock
    with listening(as_json=as_json) as listener, locked(bundle, wait=wait, listener=listener):
        loaded = load_bundle(bundle, check_digests=not no_check)
        limits = bundle_limits(
            loaded, max_batch_size=max_batch_size, max_input_len=max_input_len, max_seq_len=max_seq_len
        )
        with stage_events("engine", listener) as report:
            target = target_of(loaded, PluginHost.load(plugin_paths))
            form = engine_form(target)
            backend = choose_backend(choice, report, compute_capability=sm, allowed=form.backends)
            if backend is None:
                raise NoBackendError("" if target.builds_engine else target.engine_note(bundle))
            record = add_engine(
                loaded,
                form=form,
                backend=backend,
                compute_capability=sm,
                report=report,
                limits=limits,
            )
    if not as_json:
        where = f"SM {record.compute_capability}" if record.compute_capability else "every RTX GPU since Ampere"
        click.echo(f"{bundle / 'llm' / 'llm.engine'}: {record.bytes / 1e6:.1f} MB for {where}, {record.seconds:.1f} s")
