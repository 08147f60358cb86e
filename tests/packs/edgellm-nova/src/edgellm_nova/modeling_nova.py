"""Nova for transformers: parallel branches behind learned gates, and logits that are squashed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import RopeParameters
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class NovaConfig(PreTrainedConfig):
    """Sizes of a Nova model."""

    model_type = "nova"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 32000
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 12
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    squash: float = 4.0
    rope_parameters: RopeParameters | dict | None = None
    tie_word_embeddings: bool = False
    use_cache: bool = True
    initializer_range: float = 0.02

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_attention_heads


class NovaAttention(nn.Module):
    """Grouped-query attention with RoPE."""

    def __init__(self, config: NovaConfig, layer_idx: int) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = True
        self.attention_dropout = 0.0
        width = config.num_key_value_heads * self.head_dim
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, width, bias=True)
        self.value = nn.Linear(config.hidden_size, width, bias=False)
        self.out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Any, position_embeddings: Any, attention_mask: Any, past_key_values: Any, **kwargs: Any) -> Any:
        """Attend."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.query(hidden_states).view(shape).transpose(1, 2)
        key = self.key(hidden_states).view(shape).transpose(1, 2)
        value = self.value(hidden_states).view(shape).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, _weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.out(output.reshape(*hidden_states.shape[:-1], -1).contiguous())


class NovaLayer(nn.Module):
    """Both branches read one norm; each is added through the sigmoid of a learned number a channel."""

    def __init__(self, config: NovaConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = NovaAttention(config, layer_idx)
        self.wide = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.narrow = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.gate = nn.Parameter(torch.zeros(2, config.hidden_size))

    def forward(self, hidden_states: Any, **kwargs: Any) -> Any:
        """Add both branches."""
        normed = self.norm(hidden_states)
        gate = torch.sigmoid(self.gate)
        wide = torch.square(torch.relu(self.wide(normed)))
        return hidden_states + gate[0] * self.attention(normed, **kwargs) + gate[1] * self.narrow(wide)


class NovaPreTrainedModel(PreTrainedModel):
    """What transformers wants to know."""

    config_class = NovaConfig
    base_model_prefix = "model"
    _no_split_modules = ["NovaLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NovaLayer):
            nn.init.zeros_(module.gate)


class NovaModel(NovaPreTrainedModel):
    """The layers."""

    def __init__(self, config: NovaConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([NovaLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding."""
        return self.embed

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding."""
        self.embed = value

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, past_key_values: Any = None,
        inputs_embeds: Any = None, use_cache: bool | None = None, **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the layers."""
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask,
            past_key_values=past_key_values, position_ids=position_ids,
        )
        hidden_states = inputs_embeds
        angles = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, position_embeddings=angles, attention_mask=mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class NovaForCausalLM(NovaPreTrainedModel, GenerationMixin):
    """The layers and a head."""

    def __init__(self, config: NovaConfig) -> None:
        super().__init__(config)
        self.model = NovaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None, past_key_values: Any = None,
        inputs_embeds: Any = None, use_cache: bool | None = None, logits_to_keep: Any = 0, **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return squashed logits."""
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        logits = torch.tanh(logits / self.config.squash) * self.config.squash
        return CausalLMOutputWithPast(logits=logits, past_key_values=outputs.past_key_values)
