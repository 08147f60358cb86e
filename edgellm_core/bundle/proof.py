"""What a bundle says about its proof: parts of :class:`~edgellm_core.bundle.manifest.Manifest`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt


class Record(BaseModel):
    """Base of all parts: immutable, exactly the declared keys, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TokenizerRecord(Record):
    """The tokenizer and chat templates of the bundle, and how they were compared with those of the source.

    Attributes:
        status: ``equal``; ``written``, where they are equal after transformers wrote them anew; ``skipped`` where the
            comparison was switched off; or ``none`` where the source has no tokenizer.
        reference: the class of transformers that they were compared with; None where they were not.
        texts: texts that were encoded and decoded by both.
        chats: conversations that were rendered by both; 0 where there is no chat template.
        written: why transformers wrote them anew: the first difference; None where the files are the source's own.
        beyond_embedding: tokens whose ids the embedding has no row for; a prompt with one is refused.
    """

    status: Literal["equal", "written", "skipped", "none"]
    reference: str | None = None
    texts: NonNegativeInt = 0
    chats: NonNegativeInt = 0
    written: str | None = None
    beyond_embedding: NonNegativeInt = 0


class ThresholdRecord(Record):
    """A length at which the model's behaviour changes.

    Attributes:
        name: key of config.json.
        value: the length.
        run_as: the length that stood for it in the twin, where long ones are short.
        lengths: tokens of the prompts that were read whole, on both sides of ``run_as``.
    """

    name: str
    value: NonNegativeInt
    run_as: NonNegativeInt
    lengths: tuple[NonNegativeInt, ...]


class AnswersRecord(Record):
    """How answers of ``edgellm run`` were compared with those of transformers' ``generate``, token by token.

    Attributes:
        reference: what was run, in words.
        prompts: number of prompts.
        tokens: tokens that were compared, up to 48 of each answer.
        max_rel_err: largest relative error of the logits that they were chosen from.
        ties: tokens that fell otherwise between logits that are equal within the tolerance.
    """

    reference: str
    prompts: NonNegativeInt
    tokens: NonNegativeInt
    max_rel_err: NonNegativeFloat
    ties: NonNegativeInt


class TwinRecord(Record):
    """How long sequences were proved: on the model's twin, the same config with small sizes and random weights.

    Attributes:
        thresholds: every length where behaviour changes.
        longest: most tokens that were read; 0 where no twin could be made.
        max_rel_err: largest relative error of the logits.
        answers: how its answers were compared across the thresholds; None where its ``generate`` does not work.
        reason: why no twin could be made; None where one was.
    """

    thresholds: tuple[ThresholdRecord, ...]
    longest: NonNegativeInt
    max_rel_err: NonNegativeFloat | None = None
    answers: AnswersRecord | None = None
    reason: str | None = None


ArithmeticSide = Literal["graph", "original"]
"""What was run in float16."""


class ArithmeticRecord(Record):
    """What float16 arithmetic costs on this machine; measured and not judged, since a device has other kernels.

    Attributes:
        side: the graph, or the original.
        runtime: what computed it.
        finite: whether all logits were finite.
        max_rel_err: largest relative error of the logits against the original in float32 over the same weights; None
            where they are not finite.
        kl: mean Kullback-Leibler divergence from it, in nats; None where they are not finite.
        top1_agreement: share of positions with the same most likely token, 0 to 1.
    """

    side: ArithmeticSide
    runtime: str
    finite: bool
    max_rel_err: NonNegativeFloat | None
    kl: NonNegativeFloat | None
    top1_agreement: Annotated[float, Field(ge=0, le=1)]


class VerificationRecord(Record):
    """How the graph was compared with the checkpoint that it was made from: with the quantized one, where it is.

    A graph that passed computes what that checkpoint says. How close a quantized checkpoint is to its original is
    another question: see :class:`QualityRecord`.

    Attributes:
        status: ``passed``, or ``skipped`` where it was switched off; what failed is not published.
        reference: what it was compared with, in words.
        prompts: number of prompts.
        max_rel_err: largest relative error of the logits.
        top1_agreement: share of positions with the same most likely token, 0 to 1.
        kl: mean Kullback-Leibler divergence of the next-token distributions, in nats.
        greedy_tokens_equal: True where greedy decoding gave the same tokens.
        tolerance: largest ``max_rel_err`` that passes.
        arithmetic: what float16 arithmetic costs; empty where the graph is of another type or quantized.
        twin: how long sequences were proved.
    """

    status: Literal["passed", "skipped"]
    reference: str | None = None
    prompts: NonNegativeInt = 0
    max_rel_err: NonNegativeFloat | None = None
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    kl: float | None = None
    greedy_tokens_equal: bool | None = None
    tolerance: NonNegativeFloat | None = None
    arithmetic: tuple[ArithmeticRecord, ...] = ()
    twin: TwinRecord | None = None


class QualityRecord(Record):
    """How close the bundle is to the unquantized original, measured on text that it was not calibrated on.

    Far is what a build warns of: ``kl`` above 0.1, or ``top1_agreement`` below 0.85.

    Attributes:
        reference: what it was compared with, in words.
        text: where the text comes from, in words.
        tokens: positions at which the next token was predicted.
        perplexity: of the graph, ``exp`` of the mean negative log-likelihood.
        original_perplexity: of the original.
        kl: mean Kullback-Leibler divergence of the next-token distributions from the original's, in nats.
        top1_agreement: share of positions with the same most likely token, 0 to 1.
        max_kl: largest ``kl`` that the build was allowed; None for any.
    """

    reference: str
    text: str
    tokens: NonNegativeInt
    perplexity: NonNegativeFloat
    original_perplexity: NonNegativeFloat
    kl: NonNegativeFloat
    top1_agreement: Annotated[float, Field(ge=0, le=1)]
    max_kl: NonNegativeFloat | None = None


class RuntimeRecord(Record):
    """What a runtime has to do beside running the graph, to answer as transformers' ``generate`` does.

    ``edgellm run`` does all of it but ``not_applied``.

    Attributes:
        reread_at: number of tokens of the whole text, with the one that was just chosen, at which the states are
            dropped and all tokens are read again, in one step; None for never. Models of the LongRoPE kind need it:
            from there on other RoPE frequencies hold, and the cached keys have the old ones.
        stop_tokens: tokens that end an answer.
        settings: settings of generation_config.json that change which token is chosen without sampling, by
            transformers' names, for example ``repetition_penalty`` or ``suppress_tokens``.
        not_applied: such settings that ``edgellm run`` does not apply, for example ``num_beams``.
    """

    reread_at: PositiveInt | None
    stop_tokens: tuple[NonNegativeInt, ...]
    settings: dict[str, Any]
    not_applied: dict[str, Any]


class SampleRecord(Record):
    """One greedy answer of the bundle beside that of the unquantized original.

    Attributes:
        question: what was asked.
        chat: whether it was put into the chat template.
        bundle: answer of the bundle; None where there is none.
        original: answer of the source in float32; None where there is none.
        no_bundle: why the bundle was not asked.
        no_original: why the original was not asked.
    """

    question: str
    chat: bool
    bundle: str | None = None
    original: str | None = None
    no_bundle: str | None = None
    no_original: str | None = None
