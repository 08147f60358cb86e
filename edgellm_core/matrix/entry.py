"""An entry of the test matrix, and its text: ``MODEL-PRECISION[-lmPRECISION](-token)*``."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.matrix.errors import MatrixSyntaxError
from edgellm_core.matrix.tokens import BY_LENGTH, PRECISIONS, TOKENS, explain_unknown, nearest
from edgellm_core.quantization.schemes import BUILT_IN
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

TINY: Final = "tiny"
"""Model of an entry that means the random checkpoint of the family's ``tiny_config()``."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*(-[A-Za-z0-9._]+)*")
"""Names of models and drafts."""

ASCENDING: Final = (
    ("mxil", "mxsl"), ("mnit", "mxit"), ("mxpiit", "mxit"), ("bs", "mxbs"), ("isl", "mxil"), ("isl", "mxsl"),
)  # fmt: skip
"""Pairs of tokens of which the first may not exceed the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EagleDraft:
    """Draft model of EAGLE speculative decoding.

    Attributes:
        id: its name.
        precision: of its weights.
        lm_head_precision: of its output head; None for the default.
    """

    id: str
    precision: str
    lm_head_precision: str | None = None

    def __str__(self) -> str:
        return _join(self.id, self.precision, self.lm_head_precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixEntry:
    """One combination of model, precision and limits; ``str`` gives its canonical text.

    A token that is not there is None, or False for a flag.

    Attributes:
        model: a name in model_registry.yaml, in any case, or ``tiny``.
        precision: of the weights.
        lm_head_precision: of the output head; None for floats.
        fp8_kv_cache: the KV cache is in FP8.
        max_seq_len: tokens of a sequence at most: capacity of the KV cache.
        max_batch_size: sequences at once at most.
        max_input_len: tokens of a prompt at most.
        lora: LoRA adapters are inputs of the graph.
        merge_lora: a LoRA adapter is merged into the weights.
        max_lora_rank: rank of an adapter at most.
        eagle: the draft model.
        max_verify_tree_size: nodes of the tree that the base model verifies at most.
        max_draft_tree_size: nodes of the tree that the draft model makes at most.
        eagle_top_k: candidates a draft step.
        eagle_steps: draft steps.
        vision_precision: of the vision encoder.
        min_image_tokens: image tokens at least.
        max_image_tokens: image tokens at most.
        max_image_tokens_per_image: tokens of one image at most.
        reduced_vocab_size: words of the reduced vocabulary.
        vocab_reduction_method: how they are chosen.
        vocab_reduction_samples: samples that the choice is made from at most.
        batch_size: benchmark: sequences at once.
        input_len: benchmark: tokens of a prompt.
        output_len: benchmark: tokens to generate.
        text_len: benchmark: text tokens of a prompt.
        image_len: benchmark: image tokens of a prompt.
        schemes: names of plugins' schemes, which a precision may be besides the core's; two entries of one text are
            equal whatever these are.

    Raises:
        MatrixSyntaxError: a value that has no text, or values that contradict each other.
    """

    model: str
    precision: str
    lm_head_precision: str | None = None
    fp8_kv_cache: bool = False
    max_seq_len: int | None = None
    max_batch_size: int | None = None
    max_input_len: int | None = None
    lora: bool = False
    merge_lora: bool = False
    max_lora_rank: int | None = None
    eagle: EagleDraft | None = None
    max_verify_tree_size: int | None = None
    max_draft_tree_size: int | None = None
    eagle_top_k: int | None = None
    eagle_steps: int | None = None
    vision_precision: str | None = None
    min_image_tokens: int | None = None
    max_image_tokens: int | None = None
    max_image_tokens_per_image: int | None = None
    reduced_vocab_size: int | None = None
    vocab_reduction_method: str | None = None
    vocab_reduction_samples: int | None = None
    batch_size: int | None = None
    input_len: int | None = None
    output_len: int | None = None
    text_len: int | None = None
    image_len: int | None = None
    schemes: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what has no text and what contradicts itself."""
        text = str(self)
        known = _precisions(self.schemes)
        _check_name(text, self.model, self.precision, self.lm_head_precision, known)
        if self.eagle is not None:
            _check_name(text, self.eagle.id, self.eagle.precision, self.eagle.lm_head_precision, known)
        for token in TOKENS:
            value = getattr(self, token.field)
            if value is not None and token.kind not in {"flag", "draft"} and token.read(f"{token.name}{value}") is None:
                raise MatrixSyntaxError(text, explain_unknown(f"{token.name}{value}"))
        self._check_contradictions(text)

    def _check_contradictions(self, text: str) -> None:
        values = {token.name: getattr(self, token.field) for token in TOKENS}
        for low, high in ASCENDING:
            if values[low] is not None and values[high] is not None and values[low] > values[high]:
                problem = f"{low}{values[low]} must not exceed {high}{values[high]}. Lower {low} or raise {high}."
                raise MatrixSyntaxError(text, problem)
        total = (self.input_len or 0) + (self.output_len or 0)
        if self.max_seq_len is not None and total > self.max_seq_len:
            problem = f"isl and osl together are {total}, more than mxsl{self.max_seq_len}. Lower them or raise mxsl."
            raise MatrixSyntaxError(text, problem)

    @property
    def tiny(self) -> bool:
        """Whether the model is the tiny checkpoint of the entry's family."""
        return self.model == TINY

    def unavailable(self) -> list[str]:
        """Return what the entry asks for that this edgellm does not have, each named with its token."""
        known = self.precision in ELEMENT_TYPES or self.quantizes
        missing = [] if known else [f"precision {self.precision}"]
        if self.lm_head_precision not in {None, self.precision, *self._heads()}:
            missing.append(f"an output head of another precision (lm{self.lm_head_precision})")
        features: dict[str, list[str]] = {}
        if self.fp8_kv_cache and not self.quantizes:
            features["a KV cache in FP8 under float weights"] = ["fp8kv"]
        for feature, text in self._tokens():
            if feature:
                features.setdefault(feature, []).append(text)
        return [*missing, *(f"{feature} ({', '.join(texts)})" for feature, texts in features.items())]

    @property
    def quantizes(self) -> bool:
        """Whether the precision is a quantization scheme, of the core or of a plugin."""
        return self.precision in {*BUILT_IN, *self.schemes}

    def _heads(self) -> set[str]:
        """Return the precisions that the output head may have besides that of the weights."""
        return {"fp16", *BUILT_IN, *self.schemes} if self.quantizes else set()

    def _tokens(self) -> Iterator[tuple[str, str]]:
        """Yield feature and text of the tokens that are there, in canonical order."""
        for token in TOKENS:
            value = getattr(self, token.field)
            if value is not None and value is not False:
                separator = "-" if token.kind == "draft" else ""
                yield token.feature, token.name if token.kind == "flag" else f"{token.name}{separator}{value}"

    def __str__(self) -> str:
        base = _join(self.model, self.precision, self.lm_head_precision)
        return "-".join([base, *(text for _feature, text in self._tokens())])


def parse(text: str, schemes: Collection[str] = ()) -> MatrixEntry:
    """Return the entry that a text means; ``str`` of it is the text with its tokens in canonical order.

    Args:
        text: ``MODEL-PRECISION[-lmPRECISION](-token)*``.
        schemes: names of plugins' schemes, which are precisions too.

    Raises:
        MatrixSyntaxError: names the part that is unknown, there twice, or contradicts another, and what to write.
    """
    parts = deque(text.split("-"))
    known = _precisions(schemes)
    model, precision, head = _read_name(text, parts, "MODEL", known)
    fields: dict[str, Any] = {"model": model, "precision": precision, "lm_head_precision": head}
    while parts:
        part = parts.popleft()
        if part == "eagle":
            name, draft_precision, draft_head = _read_name(text, parts, "eagle-ID", known)
            draft = EagleDraft(id=name, precision=draft_precision, lm_head_precision=draft_head)
            name_of_field, value = "eagle", draft
        else:
            name_of_field, value = _read_token(text, part, known)
        if name_of_field in fields:
            raise MatrixSyntaxError(text, f"token {part!r} is there a second time. Keep one of the two.")
        fields[name_of_field] = value
    return MatrixEntry(**fields, schemes=frozenset(schemes))


def _precisions(schemes: Collection[str]) -> tuple[str, ...]:
    return (*PRECISIONS, *sorted(set(schemes) - set(PRECISIONS)))


def _read_token(text: str, part: str, known: Collection[str]) -> tuple[str, Any]:
    for token in BY_LENGTH:
        if part.startswith(token.name) and token.kind != "draft":
            value = token.read(part)
            if value is not None:
                return token.field, value
    if part.startswith("lm"):
        problem = f"token {part!r} must be lmPRECISION and follow a precision directly. "
        raise MatrixSyntaxError(text, problem + nearest(part[2:], known))
    if not part:
        raise MatrixSyntaxError(text, "a part between two dashes, or after the last one, is empty. Remove a dash.")
    raise MatrixSyntaxError(text, explain_unknown(part))


def _read_name(text: str, parts: deque[str], what: str, known: Collection[str]) -> tuple[str, str, str | None]:
    """Take a name, its precision and the precision of its output head; names may hold dashes."""
    waiting = list(parts)
    at = next((index for index, part in enumerate(waiting) if index and part in known), None)
    if at is None:
        near = [nearest(part, known) for part in waiting[1:]]
        hints = [f"{hint} (for {part!r})" for hint, part in zip(near, waiting[1:], strict=True) if "mean" in hint]
        remedy = hints[0] if hints else nearest("", known)
        raise MatrixSyntaxError(text, f"{what} must be followed by a precision. {remedy}")
    for _part in range(at + 1):
        parts.popleft()
    head = parts.popleft()[2:] if parts and parts[0][:2] == "lm" and parts[0][2:] in known else None
    return "-".join(waiting[:at]), waiting[at], head


def _check_name(text: str, name: str, precision: str, head: str | None, known: Collection[str]) -> None:
    if not NAME.fullmatch(name) or set(name.split("-")[1:]) & set(known):
        problem = f"{name!r} can't be a name: use letters, digits, '.', '_' and single dashes, and no precision."
        raise MatrixSyntaxError(text, problem)
    for value in (precision, head):
        if value is not None and value not in known:
            raise MatrixSyntaxError(text, f"unknown precision {value!r}. {nearest(value, known)}")


def _join(name: str, precision: str, head: str | None) -> str:
    return "-".join([name, precision, *([f"lm{head}"] if head else [])])
