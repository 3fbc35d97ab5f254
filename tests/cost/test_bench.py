"""`minirft bench` counts what it says it counts: against numbers worked out by hand, and against torch's counter."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from result_tables import benches
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Qwen2VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from minirft import UserError
from minirft.commands.bench import bench
from minirft.cost import benchmark as measuring
from minirft.cost import steps
from minirft.cost.benchmark import Request, agreement, measure
from minirft.cost.lower_bound import backward_flops, floor, forward_flops, vision_flops
from minirft.cost.random_weights import RAW_SCORE, write_random
from minirft.cost.report import table
from minirft.cost.shapes import (
    Shape,
    filler,
    fit_shape,
    load_policy,
    noise,
    question,
    questions,
)
from minirft.cost.sizes import architecture
from minirft.cost.work import SavedActivations, flop_counter
from minirft.engine import logprobs
from minirft.engine.loading import LoraSettings
from minirft.policy import Policy

LANGUAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "vocab_size": 512,
    "num_attention_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
VISION = {"depth": 2, "embed_dim": 64, "num_heads": 2, "hidden_size": 64}
P, C, G = 60, 24, 4
RANK = 16


def random_config(**language: int) -> Qwen2VLConfig:
    """The architecture of "small" at a size that takes a step in a blink."""
    config = architecture("small").to_dict()
    config["text_config"] |= LANGUAGE | language
    del config["text_config"]["layer_types"]
    return Qwen2VLConfig(**config | {"vision_config": config["vision_config"] | VISION})


def write_random_model(folder: Path, **language: int) -> str:
    """A folder of random weights of that architecture."""
    random_config(**language).save_pretrained(folder / "shape")
    return str(write_random(folder, str(folder / "shape")))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random model small enough for a step in a blink; the benchmark trains LoRA on it."""
    return write_random_model(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def request_(model: str) -> Request:
    return Request(model=model, prompt=P, completion=C, group=G, steps=2, trl=False)


@pytest.fixture(scope="module")
def found(request_: Request) -> dict:
    return measure(request_)


def counted(run) -> int:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


# ------------------------------------------------------------------ the counter


def test_attention_is_counted_on_a_cpu():
    """torch's counter skips the CPU's attention kernel: ours, naive and TRL would all look too cheap."""
    q, k, v = (torch.randn(2, 4, 16, 32, requires_grad=True) for _ in range(3))
    one_product = 2 * 2 * 4 * 16 * 16 * 32

    def attend() -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    assert counted(attend) == 2 * one_product
    assert counted(lambda: attend().sum().backward()) == (2 + 5) * one_product


def test_recomputation_is_counted():
    """Checkpointing that looks free."""
    layer, x = nn.Linear(8, 8), torch.randn(4, 8, requires_grad=True)
    product = 2 * 4 * 8 * 8
    assert counted(lambda: layer(x).sum().backward()) == 3 * product
    again = counted(lambda: checkpoint(lambda x: layer(x).relu(), x, use_reentrant=False).sum().backward())
    assert again == 4 * product


def test_saved_bytes_are_those_of_storages_kept_for_backward():
    """Weights counted as activations, a view counted again, or a peak that never falls."""
    layer, x = nn.Linear(8, 4, bias=False), torch.randn(10, 8)
    saved = SavedActivations(layer.parameters())
    with saved.hooks():
        y = layer(x.view(10, 8)) * layer(x)  # two products keep x; their product keeps both results
        assert saved.bytes == saved.peak == (10 * 8 + 2 * 10 * 4) * 4
        y.sum().backward()
    assert (saved.bytes, saved.peak) == (0, (10 * 8 + 2 * 10 * 4) * 4)


# ------------------------------------------------------------------ the floor


@pytest.mark.parametrize("rank", [0, RANK])
@pytest.mark.parametrize("layers", [1, 2])
def test_floor_of_the_language_model_is_what_torch_counts(tmp_path: Path, rank: int, layers: int):
    """A factor, a linear layer or a gradient too many or too few in the formula."""
    write_random_model(tmp_path, num_hidden_layers=layers)
    policy = load_policy(str(tmp_path), LoraSettings(r=rank) if rank else None, checkpointing=False)
    config, n, places = policy.core.config, 20, 7
    embeds = torch.randn(1, n, LANGUAGE["hidden_size"], requires_grad=not rank)  # embeddings learn where all does
    positions = torch.arange(n).expand(3, 1, -1)

    def run() -> torch.Tensor:
        hidden = policy.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
        return policy.lm_head(hidden[0, :places])

    forward = forward_flops(config, rank, [(n, n)], places)
    with torch.no_grad():
        assert counted(run) == forward
    both = counted(lambda: run().sum().backward())
    assert both == forward + backward_flops(config, rank, [(n, n)], places)


def test_floor_of_the_vision_tower_is_what_torch_counts(model: str):
    """A tower of 4 E² + 2 E M a token that forgot its attention or its merger."""
    policy = load_policy(model, LoraSettings(r=RANK), checkpointing=False)
    prompt = policy.encode(question("?", noise((3, 5), 0)))
    assert prompt.pixel_values.shape[0] == 60
    with torch.no_grad():
        assert counted(lambda: policy.features(prompt)) == vision_flops(policy.core.config, (3, 5))


@pytest.mark.parametrize("picture", [(4, 8), (5, 7), (3, 2)])
def test_windows_of_a_tower_are_what_torch_counts(picture: tuple[int, int]):
    """Window attention counted as if every layer saw the whole picture, or windows cut by an edge as full ones."""
    config = architecture("qwen2.5-vl-3b")
    small = {"depth": 3, "fullatt_block_indexes": [1], "hidden_size": 64, "intermediate_size": 96, "num_heads": 2}
    for name, value in small.items():
        setattr(config.vision_config, name, value)
    tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config, attn_implementation="sdpa")
    high, wide = picture
    pixels, grid = torch.zeros(4 * high * wide, 1176), torch.tensor([[1, 2 * high, 2 * wide]])
    with torch.no_grad():
        assert counted(lambda: tower(pixels, grid_thw=grid)) == vision_flops(config, picture)


def test_floor_of_a_step_by_hand():
    """Tokens counted G times, the last completion token counted, or a reference that is free."""
    shape = Shape(prompt=10, completion=3, group=2, prompts=5, picture=(1, 2))
    config = random_config()
    least = floor(config, shape, RANK, reference=True)
    d, v, layers, hidden = 64, 512, 2, 64
    linears = d * (hidden + 2 * 32) + hidden * d + 3 * d * 192
    adapters = RANK * (4 * d + 2 * 32 + 2 * hidden + 2 * (d + 192) + 192 + d)
    tokens, places = 10 + 2 * 2, 1 + 2 * 2
    alone = 4 * hidden * layers  # FLOPs of one query on one key
    rollout = 2 * tokens * layers * (linears + adapters) + 2 * places * d * v + alone * (100 + 2 * (11 + 12))
    assert least["rollout"] == 5 * rollout
    forward = 2 * tokens * layers * (linears + adapters) + 2 * places * d * v + alone * (100 + 2 * 2 * 12)
    assert least["forward"] == 5 * forward
    assert least["reference"] == 5 * (forward - 2 * tokens * layers * adapters)
    assert floor(config, shape, RANK, see_pictures=False)["vision"] == 0


# ------------------------------------------------------------------ shapes


@pytest.mark.parametrize("prompt", [24, 45, 46, 131])
def test_prompts_have_exactly_the_length(model: str, prompt: int):
    """A prompt off by one token compares two different steps."""
    policy = load_policy(model, LoraSettings(r=RANK), checkpointing=False)
    shape = fit_shape(policy, Shape(prompt, 4, 2, prompts=2))
    encoded = [policy.encode(sample) for sample in questions(filler(policy, shape), shape, seed=3)]
    assert [len(p) for p in encoded] == [prompt, prompt]
    pictured = int(encoded[0].mm_token_type_ids.sum())
    assert pictured == shape.picture[0] * shape.picture[1]
    assert not torch.equal(encoded[0].pixel_values, encoded[1].pixel_values)
    if prompt > 40:
        assert 0.5 * prompt < pictured < 0.8 * prompt


def test_a_prompt_too_short_for_a_picture_is_refused(request_: Request):
    """A negative picture, or a stack of errors from the picture processor."""
    with pytest.raises(UserError, match=r"no room for a picture.*--prompt"):
        measure(replace(request_, prompt=5))


# ------------------------------------------------------------------ what a step does


def test_counts_of_a_step(found: dict):
    """A prompt or a picture that passes the model more than once for its group, or a phase taken for another."""
    ours, naive = found["ours"], found["naive"]
    assert (ours["vision_passes"], naive["vision_passes"]) == (1, 2 * G)
    assert (ours["preprocessings"], naive["preprocessings"]) == (1, 1)
    assert ours["prompt_tokens"] == {"prepare": 0, "generate": P, "score": 0, "update": P}
    assert naive["prompt_tokens"] == {"prepare": 0, "generate": G * P, "score": 0, "update": G * P}
    for row in (ours, naive):
        assert row["completion_tokens"] == {"prepare": 0, "generate": G * (C - 1), "score": 0, "update": G * C}
    assert ours["vision_patches"] == 4 * found["shape"]["picture_tokens"]
    assert naive["vision_patches"] == 2 * G * ours["vision_patches"]
    assert ours["saved_bytes"] < naive["saved_bytes"]


def test_ours_is_within_a_tenth_of_the_floor(found: dict):
    """Work done twice in the shared path, such as the prompt once a completion."""
    least = found["floor"]
    assert 1 <= found["ratio"]["flops_to_floor"] <= 1.10
    generate = found["ours"]["flops_by_phase"]["generate"]
    heads = 2 * (G - 1) * LANGUAGE["hidden_size"] * LANGUAGE["vocab_size"]  # the prompt's last logits, G times
    assert generate == least["vision"] + least["rollout"] + heads
    assert found["ratio"]["naive_to_ours_flops"] > 2


def test_several_prompts_a_reference_and_pictures_seen_before(request_: Request):
    """Counts that do not add up over prompts; a reference that is not seen; a cache that is not used."""
    found = measure(replace(request_, prompts=2, kl_coef=0.1, cached=True, steps=1))
    ours, naive = found["ours"], found["naive"]
    assert (ours["vision_passes"], ours["preprocessings"], found["floor"]["vision"]) == (0, 0, 0)
    assert naive["vision_passes"] == 3 * 2 * G  # generate, reference, update
    assert ours["prompt_tokens"] == {"prepare": 0, "generate": 2 * P, "score": 2 * P, "update": 2 * P}
    assert ours["completion_tokens"]["score"] == 2 * G * C
    assert 1 <= found["ratio"]["flops_to_floor"] <= 1.10


def test_checkpointing_saves_memory_and_costs_arithmetic(request_: Request, found: dict):
    """A flag that is not handed on."""
    saving = measure(replace(request_, checkpointing=True, steps=1))
    assert saving["ours"]["saved_bytes"] < found["ours"]["saved_bytes"] / 2
    assert saving["ours"]["flops"] > 1.1 * found["ours"]["flops"]


def test_unequal_paths_are_not_timed(request_: Request, monkeypatch: pytest.MonkeyPatch):
    """A fast wrong path: the comparison must stop before it prints a ratio."""
    right = Policy.logprobs

    def wrong(policy: Policy, *args: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs, entropy = right(policy, *args, **options)
        return logprobs * (1.0 if policy.shared_prefix else 1.02), entropy

    monkeypatch.setattr(Policy, "logprobs", wrong)
    monkeypatch.setattr(measuring, "take_turns", lambda *_: pytest.fail("timed all the same"))
    with pytest.raises(UserError, match="nothing was timed"):
        measure(request_)


def test_raised_scores_leave_the_check_its_meaning(request_: Request, model: str, monkeypatch: pytest.MonkeyPatch):
    """Random models without the biases of published ones; or a bound, widened for them, that lets a fault pass.

    The fault is the least there is: one completion of four lies one rotary position too far.
    """
    ours = measuring.new_ours(request_, model, LoraSettings(r=RANK))
    layers = ours.policy.language_model.layers
    assert [steps.raw_score(layer.self_attn, 16) for layer in layers] == pytest.approx([RAW_SCORE] * 2)
    allowed = steps.tolerance(ours.policy, P + C)
    agreement(ours, None)
    right = logprobs._packed_positions

    def off(prompts: list, lengths: list) -> torch.Tensor:
        positions = right(prompts, lengths).clone()
        positions[..., P : P + C] += 1
        return positions

    monkeypatch.setattr(logprobs, "_packed_positions", off)
    with pytest.raises(UserError, match="nothing was timed"):
        agreement(ours, None)
    for layer in layers:
        layer.self_attn.q_proj.bias.data.zero_()
    assert steps.tolerance(ours.policy, P + C) < 1e-4
    # One rounding of a score of 1e4, at a scaling of a quarter; 8 of them a layer, two layers, and 6 √2.
    assert allowed == pytest.approx(72**0.5 * 16**0.5 * 1e4 * 2**-24 / 4, rel=1e-3)


# ------------------------------------------------------------------ the command


def test_json_contract_without_trl(model: str, monkeypatch, capsys, tmp_path: Path):
    """A key that scripts read and that is gone; a machine without TRL on which nothing can be measured."""
    monkeypatch.setitem(sys.modules, "trl", None)  # `import trl` raises ImportError
    out = tmp_path / "deep" / "bench.json"
    flags = f"--model {model} --prompt {P} --completion 6 --group {G} --steps 1 --json --out {out}"
    bench(flags.split())
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert json.loads(out.read_text()) == found
    assert found["shape"] | {"prompt": P, "completion": 6, "group": G} == found["shape"]
    assert found["trl"] is None and "not installed" in found["setting"]["trl"]
    for name in ("ours", "naive"):
        assert found[name].keys() >= {"flops", "vision_passes", "seconds", "saved_bytes"} and found[name]["seconds"] > 0
    assert found["floor"]["flops"] > 0
    wanted = {"flops_to_floor", "naive_to_ours_seconds", "trl_to_ours_seconds", "trl_to_ours_flops"}
    assert found["ratio"].keys() >= wanted and found["ratio"]["trl_to_ours_seconds"] is None
    text = table(found)
    assert "arithmetic, GFLOP" in text and "TRL: not installed" in text
    rows = benches(out.parent).splitlines()
    again = f"minirft bench --model {model} --prompt {P} --completion 6 --group {G} --prompts 1"
    assert len(rows) == 3 and again in rows[-1]


def test_impossible_requests_are_refused(request_: Request):
    """No step to take a median of; 0 taken for "the model's own"."""
    for name in ("steps", "completion", "prompts"):
        with pytest.raises(UserError, match=f"--{name} is 0"):
            measure(replace(request_, **{name: 0}))


@pytest.mark.filterwarnings("ignore")
def test_trl_takes_turns_with_us(request_: Request):
    """TRL measured on another prompt, other weights or other lengths than ours; its work put into wrong phases."""
    pytest.importorskip("trl")
    found = measure(replace(request_, steps=1, trl=True, kl_coef=0.1, completion=8))
    trl = found["trl"]
    assert found["equal"]["trl"].keys() == {"loss", "gradient"}  # within `tolerance`, or `measure` would have stopped
    assert (trl["vision_passes"], trl["preprocessings"]) == (3 * G, 2 * G)
    assert trl["prompt_tokens"] == {"prepare": 0, "generate": G * P, "score": G * P, "update": G * P}
    assert trl["completion_tokens"] == {"prepare": 0, "generate": G * 7, "score": G * 8, "update": G * 8}
    assert found["ratio"]["trl_to_ours_flops"] > 2
    assert "beta 0.1" in table(found)


def test_a_policy_to_measure_never_ends_by_itself(model: str):
    """Completions of different lengths in the trainers that are compared."""
    policy = load_policy(model, LoraSettings(r=RANK), checkpointing=False)
    assert isinstance(policy, Policy) and max(policy.eos_ids) < 0  # no token
    assert policy.tokenizer.eos_token_id in policy.banned.tolist()
