"""Settings of generation on the vocabulary of the checkpoint, without the checkpoint.

Repetition penalties, suppressed tokens and stop tokens act on logits, whatever computed them. So they are compared on a
model of the least kind whose next token depends on the last one: transformers' ``generate`` runs it with the settings
of the checkpoint as transformers reads them, and ``edgellm run``'s own code with those that the bundle records. Before
each stop token, of either side, stands a token that leads to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.verification.generation import GenerationComparison, compare_generation

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.bundle import RuntimeRecord

Array = np.ndarray[Any, np.dtype[np.float32]]
Ids = np.ndarray[Any, np.dtype[np.int64]]

WIDTH: Final = 8
"""Numbers that a token is embedded in; with random ones no two logits are near each other."""

MOST_STOPS: Final = 32
"""Stop tokens that are led to; lists of more are of whole blocks of ids."""

TOLERANCE: Final = 1e-4
"""Largest relative error of a logit; both sides multiply the same float32 numbers."""

LENGTHS: Final = (1, 2, 24)
"""Tokens of the random prompts; some settings act on the first tokens only."""


@dataclass(frozen=True)
class Bigram:
    """A model in numbers: logits of the next token are ``before[last token] @ after``.

    Attributes:
        before: float32 ``[vocab, width]``.
        after: float32 ``[width, vocab]``.
    """

    before: Array
    after: Array

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self.before)

    def initial_states(self, batch: int) -> dict[str, Any]:
        """Return no states."""
        del batch
        return {}

    def run(self, input_ids: Ids, attention_mask: Ids, position_ids: Ids, states: Any) -> tuple[Array, dict[str, Any]]:
        """Return the logits [batch, 1, vocab] after the last token, and no states."""
        del attention_mask, position_ids, states
        return (self.before[input_ids[:, -1:]] @ self.after).astype(np.float32), {}


def compare_settings(runtime: RuntimeRecord, folder: Path, *, vocabulary: int) -> GenerationComparison:
    """Compare what settings do to answers.

    Args:
        runtime: what the bundle records.
        folder: the checkpoint, whose settings transformers reads itself.
        vocabulary: number of logits.

    Raises:
        GenerationDiffersError: an answer differs.
        OriginalGenerationError: ``generate`` refuses the settings.
    """
    from edgellm_core.verification.generation import original_stop_tokens

    stops = dict.fromkeys((*runtime.stop_tokens, *original_stop_tokens(folder)))
    known = [token for token in stops if token < vocabulary][:MOST_STOPS]
    draw = np.random.default_rng(11)
    leading = [token for token in range(vocabulary - 1, -1, -1) if token not in stops][: len(known)]
    known = known[: len(leading)]
    before = draw.normal(size=(vocabulary, WIDTH + len(known))).astype(np.float32)
    after = draw.normal(size=(WIDTH + len(known), vocabulary)).astype(np.float32)
    before[:, WIDTH:], after[WIDTH:] = 0, 0
    after[:, [*known, *leading]] *= 0.1  # other answers end late, so that they meet every setting
    for number, (token, stop) in enumerate(zip(leading, known, strict=True)):
        before[token, WIDTH + number], after[WIDTH + number, stop] = 100, 1
    prompts = [[int(token) for token in draw.integers(0, vocabulary, length)] for length in LENGTHS]
    prompts += [[int(draw.integers(vocabulary)), token] for token in leading]
    bigram = Bigram(before, after)
    return compare_generation(bigram, torch_model(bigram), runtime, prompts, folder=folder, tolerance=TOLERANCE)


def torch_model(bigram: Bigram) -> PreTrainedModel:
    """Return the same model as one that transformers' ``generate`` takes."""
    import torch
    from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class BigramForCausalLM(PreTrainedModel, GenerationMixin):
        """Next-token logits from the last token."""

        config_class = PreTrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.before = torch.nn.Parameter(torch.from_numpy(bigram.before), requires_grad=False)
            self.after = torch.nn.Parameter(torch.from_numpy(bigram.after), requires_grad=False)

        def forward(self, input_ids: torch.Tensor, past_key_values: Any = None, **_: Any) -> CausalLMOutputWithPast:
            return CausalLMOutputWithPast(
                logits=self.before[input_ids[:, -1:]] @ self.after, past_key_values=past_key_values
            )

    config = PreTrainedConfig()
    config.num_hidden_layers, config.vocab_size = 1, len(bigram.before)
    model: PreTrainedModel = BigramForCausalLM(config)
    model.eval()
    return model
