"""Tiny decoders in float16, exported as users of torch.onnx and of transformers do."""

from __future__ import annotations

import warnings

import torch

TINY = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip


def decoder(model_type, attention="sdpa", dtype=torch.float16, **changes):
    """A model with weights so large that its attention is far from uniform."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **{**TINY, **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype).eval()


class WithCache(torch.nn.Module):
    """Mask, positions, earlier keys and values in; present ones out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past):
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return out.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


class WithoutCache(torch.nn.Module):
    """Ids in, logits out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def sample(model):
    """Inputs of a decoder with a cache: ids, mask, positions, keys and values of each layer."""
    config, dtype = model.config, next(model.parameters()).dtype
    count, size = config.num_key_value_heads, config.head_dim
    past = [torch.randn(2, count, 5, size).to(dtype) for _ in range(2 * config.num_hidden_layers)]
    ids, mask = torch.randint(3, 61, (2, 4)), torch.ones(2, 9, dtype=torch.long)
    return ids, mask, torch.arange(5, 9).expand(2, 4).contiguous(), tuple(past)


def names_of(past):
    """Inputs and outputs of a decoder with a cache."""
    states = [f"past_key_values.{i}.{kind}" for i in range(len(past) // 2) for kind in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *states]
    return inputs, ["logits", *(name.replace("past_key_values", "present") for name in states)]


def with_torch(model, path, **options):
    """torch.onnx.export of a wrapper with a cache."""
    inputs = sample(model)
    names, outputs = names_of(inputs[3])
    batch, seq, past = (torch.export.Dim(name) for name in ("batch", "seq", "past"))
    tokens, keys = {0: batch, 1: seq}, {0: batch, 2: past}
    shapes = tokens, {0: batch, 1: torch.export.Dim("total")}, tokens, tuple(keys for _ in inputs[3])
    _save(WithCache(model), inputs, path, dynamic_shapes=shapes, input_names=names, output_names=outputs, **options)


def with_opset_23(model, path):
    """torch.onnx.export that writes attention as one operator."""
    with_torch(model, path, opset_version=23)


def with_torchscript(model, path):
    """The exporter that optimum used for long."""
    inputs = sample(model)
    names, outputs = names_of(inputs[3])
    tokens, keys = {0: "batch", 1: "seq"}, {0: "batch", 2: "past"}
    axes = {"input_ids": tokens, "attention_mask": {0: "batch", 1: "past + seq"}, "position_ids": tokens}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            WithCache(model),
            inputs,
            path,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes | dict.fromkeys(names[3:], keys),
        )


def without_cache(model, path):
    """torch.onnx.export of a wrapper from ids to logits."""
    shapes = {"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}}
    _save(WithoutCache(model), (torch.zeros(2, 7, dtype=torch.long),), path, dynamic_shapes=shapes)


def with_transformers(model, path):
    """The exporter of transformers 5."""
    from transformers import DynamicCache
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    ids, mask, positions, past = sample(model)
    cache = DynamicCache()
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic=True)).save_pretrained(path.parent)
    (path.parent / "model.onnx").rename(path)


EXPORTERS = {
    "torch": with_torch, "torch-23": with_opset_23, "torchscript": with_torchscript, "without-cache": without_cache,
    "transformers": with_transformers,
}  # fmt: skip


def _save(module, inputs, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False, **options)
    program.save(path, external_data=True)
