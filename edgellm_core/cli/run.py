"""``edgellm run``: generate text from a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Most tokens of the answer."
)
@click.option("--chat", is_flag=True, help="Put the prompt into the model's chat template.")
@click.option("--system", metavar="TEXT", help="System message; needs --chat.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="Randomness; 0 is greedy.")
@click.option("--top-k", type=int, default=0, help="Draw from the K most likely tokens only.")
@click.option("--top-p", type=float, default=1.0, help="Draw from the most likely tokens that reach this probability.")
@click.option(
    "--repetition-penalty", type=float, help="Above 1 makes tokens seen before less likely.  [default: the model's own]"
)  # fmt: skip
@click.option("--seed", type=int, help="Draw the same answer again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of streaming.")
@click.option(
    "--plugin-path", "plugin_paths", multiple=True, type=click.Path(path_type=Path), help="Folder with plugins."
)
@click.option("--no-check", is_flag=True, help="Skip the digests of the bundle's files.")
def run(
    *,
    bundle: Path,
    prompt: str,
    max_new_tokens: int,
    chat: bool,
    system: str | None,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float | None,
    seed: int | None,
    as_json: bool,
    plugin_paths: tuple[Path, ...],
    no_check: bool,
) -> None:
    """Generate text from BUNDLE, going on from PROMPT, or answering it with --chat.

    The text streams to standard output, the speed goes to standard error.
    """
    from edgellm_core.bundle import load_bundle
    from edgellm_core.runtime.sampling import SamplingSettings
    from edgellm_core.runtime.text import TextGenerator

    sampling = SamplingSettings(
        temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty, seed=seed
    )
    generator = TextGenerator(load_bundle(bundle, check_digests=not no_check), plugin_paths=plugin_paths)
    result = generator.generate(
        prompt,
        max_new_tokens=max_new_tokens,
        chat=chat,
        system=system,
        sampling=sampling,
        on_text=None if as_json else lambda piece: click.echo(piece, nl=False),
    )
    timings = result.timings
    if as_json:
        summary = {
            "text": result.text,
            "tokens": result.tokens,
            "finish_reason": result.finish_reason,
            "prompt_tokens": timings.prompt_tokens,
            "prefill_seconds": round(timings.prefill_seconds, 4),
            "tokens_per_second": round(timings.tokens_per_second, 2),
        }
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    click.echo()
    click.echo(
        f"{timings.new_tokens} tokens, {timings.tokens_per_second:.1f} tokens/s "
        f"(prompt: {timings.prompt_tokens} tokens in {timings.prefill_seconds:.2f} s)",
        err=True,
    )
