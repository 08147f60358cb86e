"""The grammar: what is read, what is given back, and what is refused by name."""

from __future__ import annotations

import dataclasses
import re

import pytest
from entries import entries
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgellm_core.matrix import EagleDraft, MatrixEntry, MatrixSyntaxError, parse
from edgellm_core.matrix.tokens import METHODS, PRECISIONS, TOKENS


def test_the_example_of_the_field_is_read():
    assert parse("Qwen2.5-0.5B-Instruct-fp16-mxsl4096-mxbs1-mxil2048") == MatrixEntry(
        model="Qwen2.5-0.5B-Instruct", precision="fp16", max_seq_len=4096, max_batch_size=1, max_input_len=2048
    )


@pytest.mark.parametrize(
    ("token", "field", "value"),
    [
        ("mxsl4096", "max_seq_len", 4096),
        ("mxbs8", "max_batch_size", 8),
        ("mxil2048", "max_input_len", 2048),
        ("mxlr64", "max_lora_rank", 64),
        ("lora", "lora", True),
        ("merge_lora", "merge_lora", True),
        ("fp8kv", "fp8_kv_cache", True),
        ("eagle-EAGLE3-LLaMA3.1-fp16", "eagle", EagleDraft(id="EAGLE3-LLaMA3.1", precision="fp16")),
        ("eagle-x-fp8-lmfp16", "eagle", EagleDraft(id="x", precision="fp8", lm_head_precision="fp16")),
        ("mnit4", "min_image_tokens", 4),
        ("mxit10240", "max_image_tokens", 10240),
        ("mxpiit1024", "max_image_tokens_per_image", 1024),
        ("vitfp8", "vision_precision", "fp8"),
        ("bs2", "batch_size", 2),
        ("isl128", "input_len", 128),
        ("osl16", "output_len", 16),
        ("ttl100", "text_len", 100),
        ("itl0", "image_len", 0),
        ("mvts60", "max_verify_tree_size", 60),
        ("mdts60", "max_draft_tree_size", 60),
        ("edtk10", "eagle_top_k", 10),
        ("edst6", "eagle_steps", 6),
        ("rvs16384", "reduced_vocab_size", 16384),
        ("vrmfrequency", "vocab_reduction_method", "frequency"),
        ("vrms50000", "vocab_reduction_samples", 50000),
    ],
)
def test_a_token_sets_its_field_and_nothing_else(token, field, value):
    entry = parse(f"tiny-int4_awq-lmfp8-{token}")
    assert entry == MatrixEntry(model="tiny", precision="int4_awq", lm_head_precision="fp8", **{field: value})
    assert str(entry) == f"tiny-int4_awq-lmfp8-{token}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_read(precision):
    assert parse(f"a-b-{precision}-lm{precision}-vit{precision}") == MatrixEntry(
        model="a-b", precision=precision, lm_head_precision=precision, vision_precision=precision
    )


def test_each_field_is_that_of_one_token():
    tokens = [token.field for token in TOKENS]
    fields = [field.name for field in dataclasses.fields(MatrixEntry)]
    assert sorted(fields) == sorted(["model", "precision", "lm_head_precision", "schemes", *tokens])
    assert len({token.name for token in TOKENS}) == len(TOKENS)


def test_the_canonical_text_has_the_tokens_in_the_order_of_the_table():
    assert str(parse("tiny-fp16-mxil16-fp8kv-mxsl64")) == "tiny-fp16-fp8kv-mxsl64-mxil16"


@settings(deadline=None)
@given(entries)
def test_the_text_of_an_entry_means_that_entry(entry):
    assert parse(str(entry)) == entry
    assert str(parse(str(entry))) == str(entry)


@settings(deadline=None)
@given(entries, st.randoms(use_true_random=False))
def test_the_order_of_tokens_does_not_matter(entry, random):
    base = str(MatrixEntry(model=entry.model, precision=entry.precision, lm_head_precision=entry.lm_head_precision))
    tokens = [text for _feature, text in entry._tokens()]
    random.shuffle(tokens)
    assert parse("-".join([base, *tokens])) == entry


@settings(deadline=None)
@given(st.text() | st.text(alphabet="-lmfp168xsbkvr_0eagt").map("tiny-fp16-{}".format))
@example("")
@example("-fp16")
@example("tiny-fp16-")
@example("tiny-fp16-mxsl" + "9" * 5000)
@example("tiny-fp16-mxsl٣")
def test_any_text_is_an_entry_without_loss_or_refused(text):
    entry, refusal = None, ""
    try:
        entry = parse(text)
    except MatrixSyntaxError as error:
        refusal = str(error)
    if entry is None:
        assert refusal.startswith(f"Entry {text!r}: "[:1000])  # the middle of a long message is left out
        assert refusal.endswith((".", "?", ")"))
    else:
        assert sorted(str(entry).split("-")) == sorted(text.split("-"))
        assert parse(str(entry)) == entry


FORMS = re.compile(
    rf"(mxsl|mxbs|mxil|mxlr|mnit|mxit|mxpiit|bs|isl|osl|ttl|itl|mvts|mdts|edtk|edst|rvs|vrms)\d+|lora|merge_lora|fp8kv"
    rf"|vit({'|'.join(PRECISIONS)})|vrm({'|'.join(METHODS)})|eagle|lm({'|'.join(PRECISIONS)})",
    re.ASCII,
)


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_.]{1,12}", fullmatch=True).filter(lambda part: not FORMS.fullmatch(part)))
def test_an_unknown_token_is_refused_by_name(part):
    with pytest.raises(MatrixSyntaxError, match=f"token {re.escape(repr(part))}"):
        parse(f"tiny-fp16-mxsl64-{part}-mxbs1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tiny-fp16-mxls64", "unknown token 'mxls64'. Did you mean 'mxsl64'?"),
        ("tiny-fp16-MXSL64", "unknown token 'MXSL64'. Did you mean 'mxsl64'?"),
        ("tiny-fp16-mxsl", "unknown token 'mxsl'. Did you mean 'mxslN'?"),
        ("tiny-fp16-lora1", "unknown token 'lora1'. Did you mean 'lora'?"),
        ("tiny-fp16-merge-lora", "unknown token 'merge'. Did you mean 'merge_lora'?"),
        ("tiny-fp16-fp8vk", "unknown token 'fp8vk'. Did you mean 'fp8kv'?"),
        ("tiny-fp16-llm_basic", "unknown token 'llm_basic'. Known: fp8kv, mxslN, "),
        ("tiny-fp16-fp32", "unknown token 'fp32'. Known: "),
        ("tiny-fp16-mxsl1", "'mxsl1': it must be mxslN with a whole number N from 2 to 999999999."),
        ("tiny-fp16-mxsl064", "'mxsl064': it must be mxslN with a whole number"),
        ("tiny-fp16-mxsl64k", "'mxsl64k': it must be mxslN with a whole number"),
        ("tiny-fp16-mxsl1000000000", "'mxsl1000000000': it must be mxslN with a whole number"),
        ("tiny-fp16-vrms5k", "'vrms5k': it must be vrmsN with a whole number"),
        ("tiny-fp16-vrmfrequent", "'vrmfrequent': it must be vrmNAME. Did you mean 'frequency'?"),
        ("tiny-fp16-vitfp61", "'vitfp61': it must be vitPRECISION. Did you mean 'fp16'?"),
        ("tiny-fp16-lmfp61", "'lmfp61' must be lmPRECISION and follow a precision directly. Did you mean 'fp16'?"),
        ("tiny-fp16-mxsl64-lmfp8", "'lmfp8' must be lmPRECISION and follow a precision directly."),
        ("tiny-fp16-eagle3-x-fp16", "'eagle3': it must be eagle-ID-PRECISION[-lmPRECISION]."),
        ("tiny-fp16-eagle", "eagle-ID must be followed by a precision. Known: "),
        ("tiny-fp16-eagle-x-fp61", "eagle-ID must be followed by a precision. Did you mean 'fp16'? (for 'fp61')"),
        ("tiny", "MODEL must be followed by a precision. Known: fp16, fp32, bf16, "),
        ("tiny-int4awq-mxsl64", "MODEL must be followed by a precision. Did you mean 'int4_awq'? (for 'int4awq')"),
        ("fp16", "MODEL must be followed by a precision."),
        ("-fp16", "'' can't be a name: "),
        ("org/model-fp16", "'org/model' can't be a name: "),
        ("tiny--fp16", "'tiny-' can't be a name: "),
        ("tiny-fp16--mxsl64", "a part between two dashes, or after the last one, is empty."),
        ("tiny-fp16-", "a part between two dashes, or after the last one, is empty."),
        ("tiny-fp16-mxsl64-mxsl64", "token 'mxsl64' is there a second time."),
        ("tiny-fp16-mxsl64-mxsl128", "token 'mxsl128' is there a second time."),
        ("tiny-fp16-eagle-x-fp16-eagle-y-fp8", "token 'eagle' is there a second time."),
        ("tiny-fp16-mxsl64-mxil65", "mxil65 must not exceed mxsl64. Lower mxil or raise mxsl."),
        ("tiny-fp16-mnit9-mxit8", "mnit9 must not exceed mxit8."),
        ("tiny-fp16-mxpiit9-mxit8", "mxpiit9 must not exceed mxit8."),
        ("tiny-fp16-bs2-mxbs1", "bs2 must not exceed mxbs1."),
        ("tiny-fp16-isl9-mxil8", "isl9 must not exceed mxil8."),
        ("tiny-fp16-isl60-osl5-mxsl64", "isl and osl together are 65, more than mxsl64."),
    ],
)  # fmt: skip
def test_a_wrong_entry_says_what_is_wrong_and_what_to_write(text, problem):
    with pytest.raises(MatrixSyntaxError, match=re.escape(problem)):
        parse(text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"model": "a b"}, "'a b' can't be a name"),
        ({"model": "a-fp8-b"}, "'a-fp8-b' can't be a name"),
        ({"precision": "fp61"}, "unknown precision 'fp61'"),
        ({"lm_head_precision": "fp61"}, "unknown precision 'fp61'"),
        ({"eagle": EagleDraft(id="x", precision="fp61")}, "unknown precision 'fp61'"),
        ({"max_seq_len": -1}, "unknown token 'mxsl-1'"),
        ({"max_seq_len": 8, "max_input_len": 9}, "mxil9 must not exceed mxsl8"),
    ],
)
def test_an_entry_without_a_text_can_not_be_made(fields, problem):
    with pytest.raises(MatrixSyntaxError, match=problem):
        MatrixEntry(**{"model": "tiny", "precision": "fp16", **fields})


SCHEMES = {"fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8"}


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("tiny-fp16-lmfp16-mxsl64-mxbs2-mxil16", []),
        ("tiny-int4_awq", []),
        ("tiny-fp8-lmfp8-fp8kv", []),
        ("tiny-int4_awq-lmfp16", []),
        ("tiny-int4_gptq", ["precision int4_gptq"]),
        ("tiny-fp16-lmfp8", ["an output head of another precision (lmfp8)"]),
        ("tiny-fp16-fp8kv-mxsl64", ["a KV cache in FP8 under float weights (fp8kv)"]),
        (
            "tiny-nvfp4-lora-mxlr8-eagle-x-fp16-mvts60",
            ["LoRA adapters (lora, mxlr8)", "EAGLE speculative decoding (eagle-x-fp16, mvts60)"],
        ),
        ("tiny-fp16-vitfp8-mxit8", ["a vision encoder (vitfp8, mxit8)"]),
        ("tiny-fp16-rvs8-bs1", ["vocabulary reduction (rvs8)", "a benchmark of fixed shapes (bs1)"]),
    ],
)
def test_what_the_product_does_not_have_is_named(text, missing):
    assert parse(text).unavailable() == missing


@settings(deadline=None)
@given(entries)
def test_only_limits_and_precisions_of_a_build_are_available(entry):
    built = {
        field: getattr(entry, field)
        for field in (
            "model", "precision", "lm_head_precision", "max_seq_len", "max_batch_size", "max_input_len", "fp8_kv_cache",
        )
    }  # fmt: skip
    heads = {None, entry.precision}
    if entry.precision in SCHEMES:
        heads |= {"fp16", *SCHEMES}
    known = entry.precision in {"fp32", "fp16", "bf16", *SCHEMES} and entry.lm_head_precision in heads
    cached = entry.precision in SCHEMES or not entry.fp8_kv_cache
    assert (entry.unavailable() == []) is (known and cached and entry == MatrixEntry(**built))
