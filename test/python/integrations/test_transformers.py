# Part of the Heed Project, under the Apache License v2.0 with LLVM Exceptions.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""attn_implementation="heed" against "eager", on small models with random weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="5", reason="transformers 5 is not installed")

import heed  # noqa: E402
from heed import tracing, variant  # noqa: E402
from heed.integrations import transformers as integration  # noqa: E402
from transformers import masking_utils  # noqa: E402

pytestmark = pytest.mark.slow

integration.register()

VOCABULARY = 101
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
_GQA = {**_SIZES, "num_key_value_heads": 2}
# Head dim 16, but 32 for Gemma 2. Windows are shorter than most sequences.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _GQA),
    "qwen2": ("Qwen2", {**_GQA, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "mistral": ("Mistral", {**_GQA, "sliding_window": 16}),
    "gemma2": ("Gemma2", {**_GQA, "head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8,
                          "attn_logit_softcapping": 0.5}),
    "gpt2": ("GPT2", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256,
                      "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}),
    "bert": ("Bert", _SIZES),
}
DECODERS = [name for name in MODELS if name != "bert"]


def make(name: str, dtype: Any = torch.float32, **changes: Any) -> tuple[Any, Any]:
    """The model with eager attention, and with Heed's."""
    prefix, sizes = MODELS[name]
    heads = {"bert": "ForMaskedLM", "gpt2": "LMHeadModel"}
    config = getattr(transformers, prefix + "Config")(**{**sizes, **changes})
    torch.manual_seed(0)
    eager = getattr(transformers, prefix + heads.get(name, "ForCausalLM"))(config).eval()
    with torch.no_grad():
        for parameter in eager.parameters():
            if parameter.ndim == 2:  # so that attention is not uniform, as with the library's small initial weights
                parameter.mul_(4)
    return both(eager.to(dtype))


def both(eager: Any) -> tuple[Any, Any]:
    compiled = copy.deepcopy(eager)
    eager.set_attn_implementation("eager")
    compiled.set_attn_implementation("heed")
    return eager, compiled


def tokens(length: int, batch: int = 2) -> Any:
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))


def padded(length: int, side: str | None, batch: int = 2) -> dict[str, Any]:
    """Inputs of which the last sequence is a half shorter."""
    mask = torch.ones(batch, length, dtype=torch.long)
    if side == "left":
        mask[-1, :length // 2] = 0
    elif side == "right":
        mask[-1, length - length // 2:] = 0
    return {"input_ids": tokens(length, batch), "attention_mask": mask}


def error(found: Any, expected: Any, mask: Any = None) -> float:
    """The largest difference, relative to the largest value, at tokens that are no padding."""
    difference = (found.float() - expected.float()).abs()
    if mask is not None:
        difference = difference * mask[..., None]
    return float(difference.max() / expected.abs().max())


def kernels() -> int:
    """How many kernels there are in this process."""
    return sum(len(v._kernels) for v in variant._variants.values())


@pytest.fixture(autouse=True)
def no_grad() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("length", [1, 7, 37, 130])
@pytest.mark.parametrize("name", MODELS)
def test_logits(name: str, length: int, side: str | None) -> None:
    eager, compiled = make(name)
    assert compiled.config._attn_implementation == "heed"
    inputs = padded(length, side)
    assert error(compiled(**inputs).logits, eager(**inputs).logits, inputs["attention_mask"]) < 1e-4


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("name", MODELS)
def test_bf16(name: str, side: str | None) -> None:
    """Eager rounds probabilities to bf16, Heed rounds later: Heed has to be as close to f32 as eager is."""
    eager, compiled = make(name, torch.bfloat16)
    inputs = padded(37, side)
    exact = copy.deepcopy(eager).float()(**inputs).logits
    allowed = error(eager(**inputs).logits, exact, inputs["attention_mask"])
    assert error(compiled(**inputs).logits, exact, inputs["attention_mask"]) < 1.5 * allowed + 1e-3


def test_from_config() -> None:
    config = transformers.LlamaConfig(**_GQA)
    model = transformers.AutoModel.from_config(config, attn_implementation="heed")
    assert model.config._attn_implementation == "heed"


def test_register_other_name() -> None:
    integration.register("heed-again")
    _, compiled = make("llama")
    expected = compiled(input_ids=tokens(9)).logits
    compiled.set_attn_implementation("heed-again")
    torch.testing.assert_close(compiled(input_ids=tokens(9)).logits, expected)


# Generation.


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", DECODERS)
def test_generate(name: str, cache: str) -> None:
    """20 greedy tokens; the window of Mistral begins to move meanwhile."""
    eager, compiled = make(name)
    inputs = padded(9, "left")
    found, expected = (m.generate(**inputs, max_new_tokens=20, do_sample=False, cache_implementation=cache)
                       for m in (compiled, eager))
    assert found.shape[1] == 29
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("side", [None, "left"])
def test_decoding_compiles_nothing(name: str, side: str | None) -> None:
    """The cache grows by 20 steps, other prompts follow: the kernels of the first step serve all."""
    _, compiled = make(name)
    compiled.generate(**padded(9, side), max_new_tokens=2, do_sample=False)
    count = kernels()
    for length in (9, 30):
        compiled.generate(**padded(length, side), max_new_tokens=20, do_sample=False)
    assert kernels() == count


def test_window_is_no_constant() -> None:
    for i, window in enumerate((16, 24, 5)):
        eager, compiled = make("mistral", sliding_window=window)
        inputs = {"input_ids": tokens(37)}
        assert error(compiled(**inputs).logits, eager(**inputs).logits) < 1e-4
        if i == 0:
            count = kernels()
    assert kernels() == count


@pytest.mark.parametrize("side", [None, "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_chunked_prefill(name: str, side: str | None) -> None:
    eager, compiled = make(name)
    inputs = padded(50, side)
    expected = eager(**inputs).logits
    cache = transformers.DynamicCache(config=compiled.config)
    mask = inputs["attention_mask"]
    # Padding shifts positions, for those models that are not told otherwise.
    positions = torch.arange(50).expand(2, 50)
    parts = []
    for low, high in ((0, 20), (20, 37), (37, 38), (38, 50)):
        out = compiled(input_ids=inputs["input_ids"][:, low:high], attention_mask=mask[:, :high], past_key_values=cache,
                       position_ids=positions[:, low:high], use_cache=True)
        parts.append(out.logits)
    assert error(torch.cat(parts, 1), expected, mask) < 1e-4


# Masks.


def test_packed() -> None:
    """Sequences in one row, told apart by position_ids alone."""
    eager, compiled = make("mistral")
    lengths = (5, 30, 2)
    ids = tokens(sum(lengths), 1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    found = compiled(input_ids=ids, position_ids=positions, use_cache=False).logits
    assert error(found, eager(input_ids=ids, position_ids=positions, use_cache=False).logits) < 1e-4
    alone = torch.cat([eager(input_ids=part).logits for part in ids.split(lengths, 1)], 1)
    assert error(found, alone) < 1e-4


def test_bidirectional_decoder() -> None:
    eager, compiled = make("llama", is_causal=False)
    inputs = padded(37, "right")
    assert error(compiled(**inputs).logits, eager(**inputs).logits, inputs["attention_mask"]) < 1e-4


@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("is_bool", [False, True])
def test_4d_mask(is_bool: bool, per_head: bool) -> None:
    eager, compiled = make("llama")
    generator = torch.Generator().manual_seed(0)
    allowed = torch.rand(2, 4 if per_head else 1, 37, 37, generator=generator) < 0.5
    allowed |= torch.eye(37, dtype=torch.bool)
    added = torch.where(allowed, torch.randn(allowed.shape, generator=generator), torch.finfo(torch.float32).min)
    if is_bool:
        added = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    found = compiled(input_ids=tokens(37), attention_mask=allowed if is_bool else added).logits
    assert error(found, eager(input_ids=tokens(37), attention_mask=added).logits) < 1e-4


def test_4d_mask_of_left_padding() -> None:
    """Rows that may attend to nothing have the least number everywhere; what they yield must not reach the others."""
    eager, compiled = make("llama")
    allowed = torch.ones(37, 37, dtype=torch.bool).tril().expand(2, 1, 37, 37).clone()
    allowed[1, :, :, :5] = False
    added = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    found, expected = (model(input_ids=tokens(37), attention_mask=added).logits for model in (compiled, eager))
    assert torch.isfinite(found).all()
    assert error(found[0], expected[0]) < 1e-4 and error(found[1, 5:], expected[1, 5:]) < 1e-4


def test_block_mask_of_torch() -> None:
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    _, compiled = make("llama")
    mask = flex.create_block_mask(lambda b, h, q, kv: q >= kv, 2, 1, 37, 37, device="cpu")
    assert error(compiled(input_ids=tokens(37), attention_mask=mask).logits, compiled(input_ids=tokens(37)).logits) < 1e-4


_SOME_IDS = torch.tensor([[-1, 0, 0, 0, -1, 1, 1, -1, 2, 2, 2]] * 2)
_PADDED = padded(11, "left")["attention_mask"].bool()
_MASK_FUNCTIONS: dict[str, Any] = {
    "causal": masking_utils.causal_mask_function,
    "bidirectional": masking_utils.bidirectional_mask_function,
    "sliding": masking_utils.sliding_window_causal_mask_function(4),
    "sliding both ways": masking_utils.sliding_window_bidirectional_mask_function(3),
    "chunked": masking_utils.chunked_causal_mask_function(4, torch.tensor([0, 2])),
    "blockwise": masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.blockwise_overlay(_SOME_IDS)),
    "packed": masking_utils.packed_sequence_compatibility_function(
        masking_utils.causal_mask_function, torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4]] * 2),
        torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2]] * 2)),
}


@pytest.mark.parametrize("padding", [None, _PADDED, _PADDED[:, :7], torch.ones(2, 7, dtype=torch.bool)],
                         ids=["dense", "padded", "shorter", "shorter and full"])
@pytest.mark.parametrize("lengths", [(11, 11, 0, 0), (4, 11, 7, 0), (1, 11, 10, 0), (3, 6, 8, 5)])
@pytest.mark.parametrize("function", _MASK_FUNCTIONS)
def test_mask_functions(function: str, lengths: tuple[int, int, int, int], padding: Any) -> None:
    """Each pair, against the mask that the library materialises. Lengths and offsets: of queries, keys, both."""
    q_length, kv_length, q_offset, kv_offset = lengths
    arguments = {"batch_size": 2, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset, "kv_offset": kv_offset,
                 "mask_function": _MASK_FUNCTIONS[function], "attention_mask": padding}
    expected = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    for offset in (q_offset, torch.tensor(q_offset)):
        mask = integration.attention_mask(**{**arguments, "q_offset": offset})
        assert mask is not None and mask.shape == (2, 1, q_length, kv_length)
        found = tracing.evaluate(mask.mask_mod, *np.ogrid[:2, :1, :q_length, :kv_length])
        np.testing.assert_array_equal(found, expected.numpy())


def test_mask_is_a_function() -> None:
    """Of lengths whose pairs no memory has room for."""
    length = 1 << 24
    padding = torch.ones(1, length, dtype=torch.bool)
    padding[0, 0] = False
    mask = integration.attention_mask(1, length, length, attention_mask=padding)
    assert repr(mask) == f"<Mask (1, 1, {length}, {length}) of causal>"


def test_all_pairs() -> None:
    """Nothing to compute, but a mask: layers that get none take themselves for causal."""
    both_ways = masking_utils.bidirectional_mask_function
    mask = integration.attention_mask(1, 8, 8, mask_function=both_ways, allow_is_bidirectional_skip=True)
    assert mask.shape == (1, 1, 8, 8) and mask.mask_mod is None
    window = masking_utils.sliding_window_bidirectional_mask_function(3)
    assert integration.attention_mask(1, 8, 8, mask_function=window, allow_is_bidirectional_skip=True, local_size=3).mask_mod
    q, k = torch.randn(1, 4, 8, 16), torch.randn(1, 2, 8, 16)
    found, _ = integration.attention(torch.nn.Module(), q, k, k, mask)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


def test_parts_of_a_mask() -> None:
    window = masking_utils.sliding_window_causal_mask_function(4)
    mask = integration.attention_mask(2, 9, 11, 2, 0, window, _PADDED)
    whole = tracing.evaluate(mask.mask_mod, *np.ogrid[:2, :1, :9, :11])
    for key in ((slice(None), slice(None), slice(-3, None), slice(None)), (slice(None), slice(None), slice(None), slice(0, 7)),
                (slice(None), slice(None), slice(2, 5), slice(3, 9)), (slice(0, 2), slice(0, 1)), slice(None)):
        part = mask[key]
        np.testing.assert_array_equal(tracing.evaluate(part.mask_mod, *np.ogrid[:2, :1, :part.shape[2], :part.shape[3]]), whole[key])
    moved = mask.to("cpu", non_blocking=True)
    assert moved.shape == mask.shape and mask.to(torch.float32) is mask
    np.testing.assert_array_equal(tracing.evaluate(moved.mask_mod, *np.ogrid[:2, :1, :9, :11]), whole)


def test_keys_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    _, compiled = make("llama")
    shapes = []
    original = heed.flex_attention

    def spy(query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        shapes.append((query.shape[1], key.shape[1]))
        return original(query, key, *args, **kwargs)

    monkeypatch.setattr(heed, "flex_attention", spy)
    compiled(input_ids=tokens(7))
    assert shapes == [(4, 2)] * 2


def test_layer_without_mask() -> None:
    """An attention module on its own is causal, as with "sdpa"; keys of a cache come first."""
    class Layer(torch.nn.Module):
        is_causal = True

    q, k = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 12, 16)
    found, _ = integration.attention(Layer(), q, k, k, None)
    mask = torch.ones(5, 12, dtype=torch.bool).tril(7)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, k, mask, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))
    found, _ = integration.attention(Layer(), q, k, k, None, is_causal=False)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    torch.testing.assert_close(found, expected.transpose(1, 2))


# Other architectures.


def _t5() -> tuple[Any, Any]:
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4,
                                   pad_token_id=0, decoder_start_token_id=0, eos_token_id=None)
    torch.manual_seed(0)
    return both(transformers.T5ForConditionalGeneration(config).eval())


def test_encoder_decoder() -> None:
    """T5: position bias, a padded encoder, cross attention."""
    eager, compiled = _t5()
    inputs = padded(37, "right")
    decoder = {"decoder_input_ids": tokens(11)}
    assert error(compiled(**inputs, **decoder).logits, eager(**inputs, **decoder).logits) < 1e-4
    found, expected = (m.generate(**inputs, max_new_tokens=20, do_sample=False) for m in (compiled, eager))
    assert torch.equal(found, expected)


def test_sinks() -> None:
    """GPT-OSS: a learned score beside the keys'."""
    config = transformers.GptOssConfig(**{**_GQA, "head_dim": 16}, num_local_experts=2, num_experts_per_tok=1,
                                       sliding_window=8)
    torch.manual_seed(0)
    model = transformers.GptOssForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("sinks"):
            parameter.normal_()
    eager, compiled = both(model)
    inputs = padded(37, "right")
    assert error(compiled(**inputs).logits, eager(**inputs).logits, inputs["attention_mask"]) < 1e-4


@pytest.mark.parametrize(("name", "config"), [
    ("ModernBertModel", {**_SIZES, "local_attention": 8}), ("SplinterModel", _SIZES),
    ("Gemma4TextModel", {**_GQA, "num_hidden_layers": 4, "head_dim": 16, "global_head_dim": 16, "sliding_window": 8,
                         "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
                         "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 2})])
@pytest.mark.parametrize("side", [None, "right"])
def test_architectures(name: str, config: dict[str, Any], side: str | None) -> None:
    """Windows both ways without padding; attention modules that do not say whether they are causal; layers that read another
    one's keys, with a part of its mask."""
    model = getattr(transformers, name)
    torch.manual_seed(0)
    made = model(model.config_class(**config, cls_token_id=None, sep_token_id=None) if "Modern" in name else model.config_class(**config))
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.mul_(3)
    eager, compiled = both(made.eval())
    inputs = padded(37, side)
    assert error(compiled(**inputs)[0], eager(**inputs)[0], inputs["attention_mask"]) < 1e-4


def test_bidirectional_static_cache() -> None:
    """Of a cache that is longer than what was seen, nothing else is attended to, padded or not."""
    eager, compiled = make("llama", is_causal=False)
    inputs = {"input_ids": tokens(37), "attention_mask": torch.ones(2, 37, dtype=torch.long)}
    found, expected = (model(**inputs, past_key_values=transformers.StaticCache(config=model.config, max_cache_len=64)).logits
                       for model in (compiled, eager))
    assert error(found, expected) < 1e-4


def test_sinks_of_queries() -> None:
    q, k, sinks = torch.randn(2, 4, 5, 16), torch.randn(2, 4, 12, 16), torch.randn(2, 4, 5, 1)
    found, _ = integration.attention(torch.nn.Module(), q, k, k, None, is_causal=False, sinks=sinks)
    weights = torch.cat([q @ k.mT / 4, sinks], -1).softmax(-1)[..., :-1]
    torch.testing.assert_close(found, (weights @ k).transpose(1, 2))


# What is refused.


@pytest.mark.parametrize("use", [
    lambda mask: mask + torch.ones(1), lambda mask: torch.ones(1) + mask, lambda mask: ~mask, lambda mask: mask == 0, lambda mask: mask < 0,
    lambda mask: torch.logical_not(mask), lambda mask: torch.where(mask, 1.0, 0.0), lambda mask: mask[:, 0], lambda mask: mask[:1],
    lambda mask: mask[..., ::2], lambda mask: bool(mask), lambda mask: mask.repeat(2, 1, 1, 1), lambda mask: mask.dtype,
    lambda mask: mask.kv_num_blocks, lambda mask: mask.sparsity(), lambda mask: 1 - mask, lambda mask: mask[:, :, 1:2, None]])
def test_mask_has_no_elements(use: Any) -> None:
    """A model that computes with its mask hears of it."""
    mask = integration.attention_mask(2, 8, 8)
    with pytest.raises((TypeError, AttributeError), match='is a function, and this model .*: use "sdpa" or "eager"'):
        use(mask)


@pytest.mark.parametrize("shape", [(2, 4, 8, 16), (1, 4, 7, 16), (1, 4, 8, 17)])
def test_mask_of_other_lengths(shape: tuple[int, int, int, int]) -> None:
    batch, heads, length, keys = shape
    mask = integration.attention_mask(1, 8, 16)
    q, k = torch.randn(batch, heads, length, 16), torch.randn(batch, heads, keys, 16)
    with pytest.raises(ValueError, match=r"made for \(batch, 1, queries, keys\) = \(1, 1, 8, 16\), found .* in Module"):
        integration.attention(torch.nn.Module(), q, k, k, mask)


def test_masks_that_are_left_out() -> None:
    config = transformers.DogeConfig(**_GQA)
    model = transformers.DogeForCausalLM(config).eval()
    model.set_attn_implementation("heed")
    with pytest.raises(ValueError, match=r"\(doge\) makes a mask of its own.*: use \"sdpa\" or \"eager\""):
        model(input_ids=tokens(7))


def test_dropout() -> None:
    _, compiled = make("llama", attention_dropout=0.1)
    compiled(input_ids=tokens(7))
    with pytest.raises(ValueError, match=r"has no dropout: call model.eval\(\)"):
        compiled.train()(input_ids=tokens(7))


def test_output_attentions() -> None:
    _, compiled = make("llama")
    with pytest.raises(ValueError, match='use "eager" for output_attentions=True'):
        compiled(input_ids=tokens(7), output_attentions=True)


@pytest.mark.parametrize(("argument", "message"), [("head_mask", "head_mask"), ("cache", "paged cache"), ("indices", "no keys by indices"),
                                                   ("block_indices", "no keys by block_indices")])
def test_refused_arguments(argument: str, message: str) -> None:
    q = torch.randn(1, 2, 3, 16)
    with pytest.raises(ValueError, match=message):
        integration.attention(torch.nn.Module(), q, q, q, None, **{argument: object()})


def test_integer_mask() -> None:
    q = torch.randn(1, 2, 3, 16)
    with pytest.raises(TypeError, match="bool or floats, found torch.int64"):
        integration.attention(torch.nn.Module(), q, q, q, torch.ones(1, 1, 3, 3, dtype=torch.int64))


def test_gradients() -> None:
    _, compiled = make("llama")
    with torch.enable_grad(), pytest.raises(NotImplementedError, match="does not support backward on CPU"):
        compiled(input_ids=tokens(7))
