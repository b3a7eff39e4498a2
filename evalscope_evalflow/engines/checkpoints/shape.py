"""What a model's config.json, or the head of its GGUF file, tells of its attention: what can be split over devices,
and how much memory the keys and values of a sequence take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Where multimodal models keep their language model's configuration, as far as models have been seen to.
_INNER = ("text_config", "llm_config", "language_config", "thinker_config")
# vLLM keeps, beside a window of keys and values, those of the tokens that it reads at once.
BATCHED_TOKENS = 8192


@dataclass(frozen=True)
class Shape:
    """Of a (language) model.

    Attributes:
        heads: attention heads; None where it is not known, as for a model without attention.
        kv_heads: heads of keys and values.
        head_elements: numbers that a head keeps of a token: its key and its value.
        latent_elements: numbers that a layer keeps of a token in place of heads (MLA), the same on every device.
        full_layers: layers that keep the whole sequence.
        window_layers: layers that keep a window of it.
        window: that window's tokens.
        split_sizes: sizes that tensor parallelism divides, beside the heads, into multiples of `group`.
        group: numbers that share a scale in quantised weights.
        quantisation: such as "awq, 4 bits"; empty if there is none.
        experts: whether it is a mixture of experts.
    """

    heads: int | None = None
    kv_heads: int = 0
    head_elements: int = 0
    latent_elements: int = 0
    full_layers: int = 0
    window_layers: int = 0
    window: int = 0
    split_sizes: tuple[int, ...] = ()
    group: int = 1
    quantisation: str = ""
    experts: bool = False

    def why_not(self, tensor_parallel: int) -> str:
        """Why it cannot be split over so many devices; empty if it can."""
        if tensor_parallel == 1:
            return ""
        if self.heads and self.heads % tensor_parallel:
            return f"{self.heads} attention heads cannot be shared by {tensor_parallel}"
        if self.kv_heads and self.kv_heads % tensor_parallel and tensor_parallel % self.kv_heads:
            return f"{self.kv_heads} heads of keys and values cannot be shared by {tensor_parallel}"
        for size in self.split_sizes if self.group > 1 else ():
            if size % (tensor_parallel * self.group):
                return f"{size} quantised columns, in groups of {self.group}, cannot be shared by {tensor_parallel}"
        return ""

    def kv_bytes(self, tokens: int, tensor_parallel: int, element_bytes: float, *, windows: bool = True) -> int:
        """Bytes of one sequence's keys and values on each device.

        Args:
            tokens: the sequence's.
            tensor_parallel: devices that share its heads; one that has no head of its own keeps a copy of another's.
            element_bytes: of a number.
            windows: whether the engine keeps no more than the window where the model looks at no more.
        """
        heads = -(-self.kv_heads // tensor_parallel)
        numbers = self.latent_elements or heads * self.head_elements
        kept = min(tokens, self.window + BATCHED_TOKENS) if windows else tokens
        return int(numbers * element_bytes * (self.full_layers * tokens + self.window_layers * kept))


def of_config(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json describes; what it does not tell is left out."""
    text = language_config(config)
    hidden = _number(text, "hidden_size", "n_embd", "d_model") or 0
    heads = _number(text, "num_attention_heads", "n_head", "num_heads")
    kv_heads = _number(text, "num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num")
    if kv_heads is None:
        kv_heads = 1 if text.get("multi_query") is True else heads or 0
    head = _number(text, "head_dim", "kv_channels") or (hidden // heads if heads else 0)
    latent, rope = _number(text, "kv_lora_rank"), _number(text, "qk_rope_head_dim")
    full, windowed = _layers(text)
    quantisation = text.get("quantization_config") or config.get("quantization_config") or {}
    quantisation = quantisation if isinstance(quantisation, Mapping) else {}
    block = quantisation.get("weight_block_size")
    group = block[0] if isinstance(block, list) and block else quantisation.get("group_size")
    sizes = (
        (heads or 0) * (_number(text, "v_head_dim") or head),
        _number(text, "intermediate_size", "ffn_hidden_size"),
        _number(text, "moe_intermediate_size"),
    )
    experts = _number(text, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
    return Shape(
        heads=heads,
        kv_heads=kv_heads,
        head_elements=2 * head,
        latent_elements=latent + (rope or 0) if latent else 0,
        full_layers=full,
        window_layers=windowed,
        window=_number(text, "sliding_window", "attention_chunk_size") or 0,
        split_sizes=tuple(size for size in sizes if size),
        group=group if isinstance(group, int) and group > 0 else 1,
        quantisation=_quantisation(quantisation),
        experts=(experts or 1) > 1,
    )


def of_gguf(metadata: Mapping[str, Any]) -> Shape:
    """The shape that the head of a GGUF file describes."""
    kind = metadata.get("general.architecture")

    def number(name: str) -> int | None:
        return _number(metadata, f"{kind}.{name}")

    heads = number("attention.head_count")
    head = (number("embedding_length") or 0) // heads if heads else 0
    elements = (number("attention.key_length") or head) + (number("attention.value_length") or head)
    return Shape(
        heads=heads,
        kv_heads=number("attention.head_count_kv") or heads or 0,
        head_elements=elements,
        full_layers=number("block_count") or 0,
        quantisation="gguf",
    )


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model."""
    for name in _INNER:
        inner = config.get(name)
        if isinstance(inner, Mapping):
            return language_config(inner)
    return config


def _layers(text: Mapping[str, Any]) -> tuple[int, int]:
    """(layers that keep the whole sequence, layers that keep a window of it). Others, such as Mamba's, keep none."""
    count = _number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers") or 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        words = [str(kind) for kind in kinds]
        windowed = sum("sliding" in word or "chunked" in word or "local" in word for word in words)
        none = sum(any(part in word for part in ("linear", "mamba", "conv", "recurrent")) for word in words)
        return len(words) - windowed - none, windowed
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str):  # Nemotron-H
        return pattern.count("*"), 0
    some = text.get("attn_layer_indices")
    if isinstance(some, list):
        return len(some), 0
    every = _number(text, "full_attention_interval", "attn_layer_period")
    if every:
        return count // every, 0
    every = _number(text, "sliding_window_pattern")
    if every and text.get("sliding_window"):
        return count // every, count - count // every
    if text.get("model_type") == "mistral" and text.get("sliding_window"):
        return 0, count
    return count, 0


def _quantisation(config: Mapping[str, Any]) -> str:
    method, bits = config.get("quant_method"), config.get("bits")
    if not method:
        return ""
    return f"{method}, {bits} bits" if bits else str(method)


def _number(mapping: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = mapping.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
