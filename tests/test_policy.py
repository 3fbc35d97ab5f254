"""Loading, adapting, quantising, saving; and what a wrong model folder gets."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from conftest import FORWARD, apart, rounding, shaken
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.engine.logprobs import naive_logits
from minirft.engine.processor import FeatureCache
from minirft.engine.versions import Qwen2VLImageProcessorPil
from minirft.policy import LoraSettings, Policy
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Rollout, Sample

LORA = LoraSettings(r=4, alpha=8)


def rollout_of(policy: Policy, samples: list[Sample]) -> Rollout:
    prompts = [policy.encode(sample) for sample in samples]
    return sample_groups(policy, prompts, 2, max_completion_length=8, generator=torch.Generator().manual_seed(0))


def plain_logits(model: torch.nn.Module, prompt: Prompt) -> torch.Tensor:
    """Logits of a model that minirft did not load, from what any user of transformers would pass."""
    return model.eval()(
        input_ids=prompt.input_ids[None],
        mm_token_type_ids=prompt.mm_token_type_ids[None],
        pixel_values=prompt.pixel_values,
        image_grid_thw=prompt.image_grid_thw,
    ).logits


def logits(policy: Policy, prompt: Prompt) -> torch.Tensor:
    return naive_logits(policy, prompt, torch.zeros(1, 0, dtype=torch.long))


# ------------------------------------------------------------------ tokens and prompts


def test_token_rules(policy: Policy) -> None:
    """Catches a control token or an empty vocabulary row that may be sampled, and an end that may not."""
    ids = policy.tokenizer.convert_tokens_to_ids
    assert policy.eos_ids == (ids("<|im_end|>"),)
    control = ["<|endoftext|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert set(policy.banned.tolist()) == {ids(token) for token in control} | set(range(263, 320))


def test_encode_places_the_picture(policy: Policy, samples: list[Sample]) -> None:
    """Catches a wrong number of picture tokens, types that miss them, or positions of another prompt."""
    for sample in samples:
        prompt = policy.encode(sample)
        pictured = prompt.input_ids == policy.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        assert pictured.sum() == prompt.image_grid_thw.prod() // 4 == len(policy.features(prompt))
        assert torch.equal(pictured.long(), prompt.mm_token_type_ids)
        assert prompt.position_ids.shape == (3, len(prompt))
        assert prompt.position_ids.max() + 1 == len(prompt) + prompt.rope_delta
        text = policy.tokenizer.decode(prompt.input_ids)
        assert text.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>")
        assert text.endswith(f"<|vision_end|>{sample.problem}<|im_end|>\n<|im_start|>assistant\n")


def test_decode_skips_control_tokens(policy: Policy) -> None:
    """Catches an end-of-turn mark, or tidied spaces, in the text a reward reads."""
    ids = policy.tokenizer("a , b .<|im_end|>", return_tensors="pt").input_ids[0]
    assert policy.decode(ids) == "a , b ."


# ------------------------------------------------------------------ features


def test_features_are_remembered_within_a_budget(policy: Policy, samples: list[Sample]) -> None:
    """Catches a cache that grows without end, drops the wrong picture, or mixes two pictures up."""
    one, two, three = (policy.encode(sample) for sample in samples)
    seen = [policy.features(prompt) for prompt in (one, two, three)]
    sizes = [features.nbytes for features in seen]
    cache, calls = FeatureCache(budget=sum(sizes) - 1), []

    def get(i: int) -> torch.Tensor:
        return cache.get((one, two, three)[i], lambda: calls.append(i) or seen[i])

    assert all(torch.equal(get(i), seen[i]) for i in (0, 1, 0, 2, 0, 1))
    assert calls == [0, 1, 2, 1]
    assert cache.used <= cache.budget
    FeatureCache(budget=1).get(one, lambda: seen[0])
    assert not FeatureCache(budget=1)


def test_same_patches_on_another_grid_are_another_picture(policy: Policy, samples: list[Sample]) -> None:
    """Catches a key made of the patches alone."""
    wide = policy.encode(samples[1])
    tall = replace(wide, image_grid_thw=wide.image_grid_thw[:, [0, 2, 1]])
    assert not torch.allclose(policy.features(wide), policy.features(tall), atol=1e-3)


# ------------------------------------------------------------------ LoRA and 4 bits


@pytest.mark.parametrize(
    ("lora", "train_vision", "language", "vision"),
    [
        (LORA, False, True, False),
        (LoraSettings(targets="vision"), False, False, True),
        (LoraSettings(targets="all"), False, True, True),
        (LORA, True, True, True),
        (None, False, True, False),
        (None, True, True, True),
    ],
)
def test_what_learns(
    lora: LoraSettings | None, train_vision: bool, language: bool, vision: bool, miniature: Path
) -> None:
    """Catches adapters on the wrong part, on lm_head, in another precision, or a frozen part that learns."""
    policy = Policy.load(miniature, lora=lora, train_vision=train_vision, dtype="bfloat16")
    names = list(policy.trainable())
    assert any("language_model" in name for name in names) == language
    assert any("visual" in name for name in names) == vision == policy.trains_vision
    assert {weight.dtype for weight in policy.trainable().values()} == {torch.float32 if lora else torch.bfloat16}
    if lora:
        assert all("lora_" in name for name in names)
        assert not any("lm_head" in name for name in names)
        linears = [m for m in policy.core.model.language_model.layers.modules() if hasattr(m, "lora_A")]
        assert len(linears) == (2 * 7 if language else 0)
        linears = [m for m in policy.core.model.visual.modules() if hasattr(m, "lora_A")]
        assert len(linears) == (2 * 4 + 2 if vision else 0)


def test_lora_starts_from_its_seed_only(miniature: Path) -> None:
    """Catches adapters drawn from the global generator: a resumed run would start elsewhere."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = Policy.load(miniature, lora=LORA).trainable()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    two = Policy.load(miniature, lora=LORA).trainable()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = Policy.load(miniature, lora=LoraSettings(r=4, alpha=8, seed=1)).trainable()
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_base_is_the_untouched_model(miniature: Path, lora_policy: Policy, samples: list[Sample]) -> None:
    """Catches adapters left on inside `base()`, or off after it."""
    prompt = lora_policy.encode(samples[0])
    untouched = plain_logits(Qwen2VLForConditionalGeneration.from_pretrained(miniature), prompt)
    adapted = logits(lora_policy, prompt)
    with lora_policy.without_adapters():
        assert apart(logits(lora_policy, prompt), untouched) < rounding(FORWARD)
    assert torch.equal(logits(lora_policy, prompt), adapted)
    assert not torch.allclose(adapted, untouched, atol=1e-2)


def test_base_without_adapters_is_a_mistake(policy: Policy) -> None:
    """Catches a reference that is silently the policy itself."""
    with pytest.raises(ValueError, match="no adapters"), policy.without_adapters():
        pass


def test_nf4_really_is_4_bit(miniature: Path) -> None:
    """Catches quantisation that quietly did not happen on a CPU, and the in-place repacking of eval mode."""
    policy = Policy.load(miniature, quantize="nf4", lora=LORA)
    layers = [module for module in policy.core.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 2 * 7 + 2 * 4 + 2
    for layer in layers:
        state = layer.weight.quant_state
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.numel() == state.shape.numel() / 2
        assert state.quant_type == "nf4"
        assert state.nested
        assert not layer.support_avx512bf16_for_cpu
    assert not isinstance(policy.lm_head, Linear4bit)
    assert "nf4" in policy.describe()


def test_nf4_gradient_does_not_depend_on_a_rollout_before(miniature: Path, samples: list[Sample]) -> None:
    """Catches bitsandbytes repacking a layer while sampling, after which it passes no gradient back."""

    def gradients(rollouts: int) -> list[torch.Tensor]:
        policy = shaken(Policy.load(miniature, quantize="nf4", lora=LORA))
        for _ in range(rollouts):
            rollout_of(policy, samples)
        return list(torch.autograd.grad(policy.logprobs(rollout).sum(), list(policy.trainable().values())))

    rollout = rollout_of(shaken(Policy.load(miniature, quantize="nf4", lora=LORA)), samples)
    alone, after = gradients(0), gradients(2)
    assert all(torch.equal(a, b) for a, b in zip(alone, after, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in alone)


@pytest.mark.parametrize("quantize", ["none", "nf4"])
def test_training_lowers_the_loss(quantize: str, miniature: Path, samples: list[Sample]) -> None:
    """Catches adapters that are not in the graph: a few steps make sampled completions likelier."""
    policy = Policy.load(miniature, quantize=quantize, lora=LORA)
    rollout = rollout_of(policy, samples)
    optimiser = torch.optim.AdamW(policy.trainable().values(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = -policy.logprobs(rollout).sum() / rollout.lengths.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


# ------------------------------------------------------------------ saving


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
def test_adapter_loads_in_plain_peft(
    miniature: Path, lora_policy: Policy, samples: list[Sample], tmp_path: Path
) -> None:
    """Catches adapter names only minirft understands."""
    lora_policy.save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.stat().st_size > 9_999) == [".safetensors"]
    plain = PeftModel.from_pretrained(Qwen2VLForConditionalGeneration.from_pretrained(miniature), tmp_path)
    prompt = lora_policy.encode(samples[1])
    assert apart(plain_logits(plain, prompt), logits(lora_policy, prompt)) < rounding(FORWARD)


def test_full_save_loads_in_plain_transformers(policy: Policy, samples: list[Sample], tmp_path: Path) -> None:
    """Catches a folder that needs minirft (its attention function, say) to be read."""
    for weight in policy.trainable().values():
        weight.data.mul_(1.05)
    policy.save(tmp_path)
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))
    assert "minirft" not in (tmp_path / "config.json").read_text()
    plain = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path)
    prompt = policy.encode(samples[1])
    assert apart(plain_logits(plain, prompt), logits(policy, prompt)) < rounding(FORWARD)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == policy.tokenizer.chat_template
    processor = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(images=[samples[1].picture()], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, prompt.pixel_values)


@pytest.mark.parametrize("lora", [None, LORA])
def test_load_trainable_takes_over_what_was_saved(
    lora: LoraSettings | None, miniature: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """Catches weights that load into another place, or only half of them."""
    trained = Policy.load(miniature, lora=lora, train_vision=True)
    for weight in trained.trainable().values():
        weight.data.add_(0.01)
    trained.save(tmp_path)
    fresh = Policy.load(miniature, lora=lora, train_vision=True)
    fresh.load_trainable(tmp_path)
    wanted = trained.trainable()
    assert list(fresh.trainable()) == list(wanted)
    assert all(torch.equal(weight, wanted[name]) for name, weight in fresh.trainable().items())


def test_load_trainable_refuses_what_does_not_fit(miniature: Path, lora_policy: Policy, tmp_path: Path) -> None:
    """Catches an adapter of another rank, for other layers, cut short or absent that is half loaded."""
    lora_policy.save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    with pytest.raises(UserError, match="do not fit"):
        Policy.load(miniature, lora=LoraSettings(r=8)).load_trainable(tmp_path)
    with pytest.raises(UserError, match="do not fit"):
        Policy.load(miniature, lora=LoraSettings(r=4, targets="all")).load_trainable(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match="do not fit"):
        lora_policy.load_trainable(tmp_path)
    with pytest.raises(UserError, match="do not fit"):
        lora_policy.load_trainable(tmp_path / "nowhere")
    with pytest.raises(UserError, match="do not fit"):
        Policy.load(miniature).load_trainable(tmp_path)


# ------------------------------------------------------------------ what a wrong model gets


def test_wrong_settings(miniature: Path) -> None:
    """Catches a setting that is silently ignored."""
    for settings, message in (
        ({"quantize": "nf4"}, "nf4 trains LoRA"),
        ({"quantize": "int3"}, "choose none or nf4"),
        ({"dtype": "float8"}, "dtype is float8"),
        ({"lora": LoraSettings(targets="head")}, "lora targets are head"),
        ({"lora": LoraSettings(r=0)}, "lora rank is 0"),
        ({"max_pixels": 500}, "max_pixels is 500"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Policy.load(miniature, **settings)
        assert "\n" not in str(caught.value)


def broken(miniature: Path, folder: Path, how: str) -> Path:
    """A copy of the miniature with one thing wrong."""
    shutil.copytree(miniature, folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    if how == "another kind":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "llava"}))
    elif how == "config no JSON":
        config.write_text("{")
    elif how == "no config":
        config.unlink()
    elif how == "no safetensors":
        weights.unlink()
    elif how == "pickle only":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "damaged":
        weights.write_bytes(weights.read_bytes()[:-5000])
    elif how == "half the weights":
        save_file(dict(list(load_file(weights).items())[::2]), weights, metadata={"format": "pt"})
    elif how in ("wider", "vocabulary", "other tokenizer"):
        edit = {"wider": ("intermediate_size", 192), "vocabulary": ("vocab_size", 200)}
        key, value = edit.get(how, ("image_token_id", 77))
        stored = json.loads(config.read_text())
        (stored if key in stored else stored["text_config"])[key] = value
        config.write_text(json.dumps(stored))
    elif how == "index":
        names = dict.fromkeys(load_file(weights), "model-00001-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        weights.unlink()
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "no picture processor":
        for file in folder.glob("*processor_config.json"):
            file.unlink()
    elif how == "no chat template":
        (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another kind", "is a llava model"),
        ("config no JSON", "config.json"),
        ("no config", "no config.json"),
        ("no safetensors", "safetensors"),
        ("pickle only", "safetensors"),
        ("damaged", "model.safetensors is not a whole safetensors file"),
        ("half the weights", "weights are missing"),
        ("wider", r"mlp.*proj.weight is \[.*128.*\], and config.json makes it \[.*192.*\]"),
        ("index", r"no model-00001-of-00002.safetensors, which model.safetensors.index.json names"),
        ("no tokenizer", "no tokenizer.json"),
        ("vocabulary", "has the id 262, and config.json a vocab_size of 200"),
        ("other tokenizer", r"image_pad.> as 2\d\d, and config.json has image_token_id 77"),
        ("no picture processor", "picture processor"),
        ("no chat template", "no chat template"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_broken_model_folder(
    how: str, message: str, miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback, or worse: what is missing filled in by transformers, and a run that learns on nothing."""
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", None)  # before anything is loaded
    with pytest.raises(UserError, match=message) as caught:
        Policy.load(broken(miniature, tmp_path / "model", how))
    assert "\n" not in str(caught.value)


def test_no_such_model(lora_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a wrong path taken for a hub id, and an adapter taken for a model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "nowhere", "nonsense", "./a/b"):
        with pytest.raises(UserError, match="no model folder"):
            Policy.load(name)
    with pytest.raises(
        UserError,
        match=r"the hub did not give it .*`hf download nobody/nothing-at-all --local-dir nothing-at-all` on a machine",
    ):
        Policy.load("nobody/nothing-at-all")
    lora_policy.save(tmp_path / "adapter")
    with pytest.raises(UserError, match="holds an adapter"):
        Policy.load(tmp_path / "adapter")
