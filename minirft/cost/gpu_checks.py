"""Two parts of the GPU benchmark: checks of correctness at real size on a card, and the speed of decoding.

bfloat16 has 8 significant bits, so two correct computations of one number differ, and equality cannot be required.  The
check is: compared with the same model in float32, the packed pass has no larger error than the plain one.

The speed of decoding is in milliseconds per token step, beside the least that the card's bandwidth allows.  A token
step reads every weight of the language model and all keys and values, and computes little.  The bandwidth is measured
with a large copy, so the bound is that of this card.
"""

import importlib
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from minirft.cost.gpu_parts import LORA, Cases, Sizes, free
from minirft.cost.shapes import Shape, filler, fit_shape, load_policy, questions
from minirft.cost.turns import Row
from minirft.cost.work import clock
from minirft.engine import DECODERS
from minirft.policy import Policy
from minirft.sampler import pick, sample_groups
from minirft.samples import Prompt, Rollout

GROUP = 8
BITSANDBYTES = {"fused_4bit": "_gemm_4bit_kernel_impl", "expanded_4bit": "_dequantize_4bit_impl"}
"""The functions of bitsandbytes' CUDA module in which all its paths end: one product, one expansion."""
FACTOR = 1.5
"""Allowed rounding error of the packed path divided by that of the plain path; 1.05 was measured on a CPU."""
TEMPERATURE = 0.1
"""A low temperature: in near-uniform sampling float32 rounding sometimes changes a token."""


def correct(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield checks of each decoder, and of scoring with gradients in each number format; a row has `ok`."""
    policy = load_policy(source, LORA, device=device, dtype="float32")
    for decoder in DECODERS:
        yield f"{decoder} decoder, float32", partial(same_tokens, policy, sizes, decoder)
    del policy
    for quantize in ("none", "nf4"):
        yield f"packed against naive, {quantize}", partial(rounding, source, device, sizes, quantize)


def prompts_of(policy: Policy, length: int, completion: int, group: int, count: int) -> list[Prompt]:
    """Make `count` prompts of a length, each with its own picture."""
    shape = fit_shape(policy, Shape(length, completion, group, count))
    return [policy.encode(sample) for sample in questions(filler(policy, shape), shape, 0)]


def same_tokens(policy: Policy, sizes: Sizes, decoder: str) -> Row:
    """Compare a decoder with the naive loop at the same uniform numbers: equal tokens, close log-probs."""
    prompts, length, group = prompts_of(policy, *sizes.check, 2), *sizes.check[1:]
    uniforms = torch.rand(2 * group, length, generator=torch.Generator().manual_seed(0))
    settings = {"max_completion_length": length, "uniforms": uniforms, "temperature": TEMPERATURE}
    naive = sample_groups(policy, prompts, group, shared=False, **settings)
    found = sample_groups(policy, prompts, group, decoder=decoder, **settings)
    equal = found.completion_ids == naive.completion_ids
    apart = (found.logprobs - naive.logprobs)[equal].abs().max().item()
    distinct = len(naive.completion_ids.unique())
    return {"tokens": equal.numel(), "distinct": distinct, "logprobs_apart": apart, "ok": bool(equal.all())}


def rounding(source: str, device: str, sizes: Sizes, quantize: str) -> Row:
    """Measure distances of log-probs and LoRA gradients in 16 bits, packed and naive, from the naive float32 path."""
    torch.backends.cudnn.allow_tf32 = False
    policy = load_policy(source, LORA, device=device, dtype="float32", quantize=quantize)
    prompts, length, group = prompts_of(policy, *sizes.check, 1), *sizes.check[1:]
    rollout = sample_groups(policy, prompts, group, max_completion_length=length, seed=0)
    truth, same = (_scored(policy, rollout, shared) for shared in (False, True))
    found: Row = {"factor": FACTOR, "float32_packed_to_naive": _distances(same, truth)}
    ok = [max(found["float32_packed_to_naive"].values()) < 1e-3]
    for dtype in ("bfloat16", "float16"):
        del policy
        free()
        policy = load_policy(source, LORA, device=device, dtype=dtype, quantize=quantize)
        naive, packed = (_distances(_scored(policy, rollout, shared), truth) for shared in (False, True))
        found |= {f"{dtype}_naive_to_float32": naive, f"{dtype}_packed_to_float32": packed}
        ok += [packed[name] <= FACTOR * naive[name] for name in naive]
    return found | {"ok": all(ok)}


def _scored(policy: Policy, rollout: Rollout, shared: bool) -> tuple[Tensor, Tensor]:
    """Return the log-probs of a rollout, and the gradient of their weighted sum, as one vector each."""
    logprobs = policy.logprobs(rollout, shared=shared)
    weights = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(1)).to(logprobs)
    learning = list(policy.trainable().values())
    gradients = torch.autograd.grad((logprobs * weights).sum(), learning, materialize_grads=True)
    return logprobs.detach().float().flatten(), torch.cat([gradient.float().flatten() for gradient in gradients])


def _distances(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the root mean square difference of log-probs in nats, and |g - g'| / |g'| of the gradients."""
    logprobs = (one[0] - other[0]).square().mean().sqrt().item()
    return {"logprobs": logprobs, "gradient": ((one[1] - other[1]).norm() / other[1].norm()).item()}


# ------------------------------------------------------------------ decoding


def decode(source: str, device: str, sizes: Sizes) -> Cases:
    """Yield milliseconds per token step of each decoder and of a step's parts, beside what the bandwidth allows."""
    bandwidth = copy_bandwidth(torch.device(device))
    for quantize, dtype in (("nf4", "bfloat16"), ("nf4", "float16"), ("none", "bfloat16")):
        policy = load_policy(source, LORA, device=device, dtype=dtype, quantize=quantize)
        prompts = prompts_of(policy, sizes.decode[0], sizes.decode[-1], GROUP, max(sizes.decode_prompts))
        for count in sizes.decode_prompts:
            name = f"{quantize}, {dtype}, {GROUP * count} rows"
            yield f"{name}, parts", partial(parts_of_a_step, policy, GROUP * count, bandwidth)
            for decoder in DECODERS:
                yield f"{name}, {decoder}", partial(token_step, policy, prompts[:count], decoder, sizes, bandwidth)


def token_step(policy: Policy, prompts: list[Prompt], decoder: str, sizes: Sizes, bandwidth: float) -> Row:
    """Measure one more token for all rows, with sampling: milliseconds, and on CUDA counts of kernels.

    It is a rollout of the greater length less one of the smaller: prefill and graph recording are in both, and cancel.
    """
    prompt, first, last = sizes.decode

    def rollout(limit: int) -> None:
        sample_groups(policy, prompts, GROUP, max_completion_length=limit, seed=0, decoder=decoder)

    rollout(first)
    few, many = (milliseconds(partial(rollout, limit), policy.device, 3) for limit in (first, last))
    ms, rows = (many - few) / (last - first), GROUP * len(prompts)
    least = bytes_per_step(policy, len(prompts), prompt, rows, (first + last) / 2)
    found: Row = {"ms": ms, "tokens_per_second": 1e3 * rows / ms, "bytes": least, "floor_ms": 1e3 * least / bandwidth}
    if policy.device.type == "cuda":
        fewer, more = (kernels(partial(rollout, limit)) for limit in (first, last))
        found["per_step"] = {name: (more[name] - fewer[name]) / (last - first) for name in more}
    return found | {"bandwidth_gb_per_second": bandwidth / 1e9}


def milliseconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    """Measure the median wall time of several runs, each to its end on the card."""
    spent = []
    for _ in range(times):
        start, _ = clock(device)
        run()
        end, _ = clock(device)
        spent.append(1e3 * (end - start))
    return statistics.median(spent)


def kernels(run: Callable[[], object]) -> Row:
    """Count kernels and launches of a run on CUDA, and in it 4-bit products, fused or with weights expanded to 16 bits.

    The kernels of a recorded graph count at every launch, its products only once, when it is recorded.
    """
    cuda = importlib.import_module("bitsandbytes.backends.cuda.ops")
    with ExitStack() as stack:
        calls = {
            name: stack.enter_context(mock.patch.object(cuda, function, wraps=getattr(cuda, function)))
            for name, function in BITSANDBYTES.items()
        }
        profiler = stack.enter_context(profile(activities=[ProfilerActivity.CUDA]))
        run()
        torch.cuda.synchronize()
    found = {"kernels": 0, "launches": 0} | {name: seen.call_count for name, seen in calls.items()}
    for event in profiler.key_averages():
        found["kernels"] += event.count * (event.device_type != DeviceType.CPU)
        found["launches"] += event.count * ("Launch" in event.key and event.device_type == DeviceType.CPU)
    return found


@torch.no_grad()
def parts_of_a_step(policy: Policy, rows: int, bandwidth: float) -> Row:
    """Measure parts of a token step alone: milliseconds, and (bytes of weights or logits) / bandwidth beside them.

    They are the linear layers of the language model without adapters, the head, and sampling with its float64 sum.
    """
    hidden = torch.randn(rows, policy.lm_head.in_features).to(policy.lm_head.weight)
    logits, uniforms = policy.lm_head(hidden), torch.rand(rows, device=policy.device)
    layers = policy.language_model.layers.named_modules()
    linears = [layer for name, layer in layers if isinstance(layer, nn.Linear) and "lora_" not in name]
    inputs = {width: torch.randn(rows, 1, width).to(hidden) for width in {layer.in_features for layer in linears}}
    weights = sum(_stored_bytes(layer.weight) for layer in linears)
    parts: dict[str, tuple[int, Callable[[], object]]] = {
        "linear layers": (weights, lambda: [layer(inputs[layer.in_features]) for layer in linears]),
        "head": (policy.lm_head.weight.nbytes, lambda: policy.lm_head(hidden)),
        "sampling": (logits.nbytes, lambda: pick(logits, uniforms, 1.0, policy.banned)),
        "float64 sum": (logits.nbytes, lambda: logits.double().exp().cumsum(-1)),
    }
    spent = {name: milliseconds(run, policy.device, 5) for name, (_, run) in parts.items()}
    return {name: {"ms": spent[name], "floor_ms": 1e3 * size / bandwidth} for name, (size, _) in parts.items()}


def bytes_per_step(policy: Policy, prompts: int, prompt: int, rows: int, tokens: float) -> int:
    """Count the least bytes of a token step: weights once, and the cache of `prompts` x `prompt` + `rows` x `tokens`.

    A group shares its prompt's keys, so they count once.  Token embeddings do not count, because only a few rows are
    read.  4-bit weights count packed, with their scales.
    """
    language = policy.language_model
    weights = [*language.layers.parameters(), *language.norm.parameters(), policy.lm_head.weight]
    config = language.config
    heads, size = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * size * policy.dtype.itemsize
    return int(sum(map(_stored_bytes, weights)) + cache * (prompts * prompt + rows * tokens))


def _stored_bytes(weight: Tensor) -> int:
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.nbytes
    return weight.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)


def copy_bandwidth(device: torch.device) -> float:
    """Measure the bytes per second that a large copy reads and writes."""
    size = 2**31 if device.type == "cuda" else 2**26
    origin, copy = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2e3 * size / milliseconds(lambda: copy.copy_(origin), device, 10)
