"""Every family on a miniature of the real classes with random weights: the engine against plain transformers."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import apart, byte_tokenizer, picture, shaken
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from test_prefix import LORA, VARIANTS, relative, rollout_of
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5

from minirft import UserError
from minirft.commands.cli import main
from minirft.engine import DECODERS, FeatureCache, Growing, prefill
from minirft.engine.decoding import Graph, put_back
from minirft.engine.families import KNOWN, family_of
from minirft.engine.families.pixel_boxes import rescale
from minirft.engine.families.qwen3_5 import State
from minirft.engine.versions import Qwen2VLImageProcessorPil, quiet_peft
from minirft.policy import LoraSettings, Policy
from minirft.rewards import Detections, parse, prompts, reading
from minirft.runs import PictureProcessor
from minirft.runs.exports import merge, write_processor
from minirft.runs.supervised import written_rollout
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Sample

TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
}
TOWER = {"depth": 4, "num_heads": 4, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
WIDE = {**TOWER, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # (language, vision), with what a family alone has
    "qwen2_vl": (
        {"rope_parameters": PLAIN_ROPE},
        {**TOWER, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": (
        {"rope_parameters": PLAIN_ROPE},
        {**WIDE, "window_size": 56, "fullatt_block_indexes": [1, 3]},
    ),
    "qwen3_vl": (
        {"head_dim": 32, "rope_parameters": {**PLAIN_ROPE, "mrope_section": [8, 4, 4], "mrope_interleaved": True}},
        {**WIDE, "patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]},
    ),
    "qwen3_5": (
        {
            "head_dim": 32,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "rope_parameters": {
                **PLAIN_ROPE,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
                "partial_rotary_factor": 0.25,
            },
        },
        {**WIDE, "patch_size": 16, "num_position_embeddings": 64},
    ),
}

# A delta net solves a triangular system in float32, in chunks that begin elsewhere in the packed row.  The next but one
# test shows in float64 that nothing but rounding differs.
GRADIENTS = {"qwen3_5": 1e-4}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Family -> the folder of its miniature, written when it is first asked for."""
    return cache(lambda family: write(tmp_path_factory.mktemp(family), family))


def write(folder: Path, family: str) -> Path:
    """As `conftest.write_miniature`: weights scaled up, an untied head; several ends, so that some answers stop."""
    tokenizer, kind, (language, vision) = byte_tokenizer(), family_of(family, family), PARTS[family]
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image_token_id": "image_pad",
            "video_token_id": "video_pad",
            "vision_start_token_id": "vision_start",
            "vision_end_token_id": "vision_end",
        }.items()
    }
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = kind.config_class(
        text_config=TEXT | ends | language, vision_config=vision, tie_word_embeddings=False, **ids
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.model_class(config)
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.data.mul_(4)
            elif name.endswith("bias") or not weight.any():  # norms of Qwen3.5 are 1 + weight
                weight.data.normal_(std=0.1)
            else:
                weight.data.mul_(1 + 0.2 * torch.randn(weight.shape))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(0, 256, 12)]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    unit = vision["patch_size"] * 2
    size = {"shortest_edge": unit**2, "longest_edge": 16 * unit**2}
    Qwen2VLImageProcessorPil(size=size, patch_size=vision["patch_size"]).save_pretrained(folder)
    return folder


def plain(family: str, folder: Path) -> Any:
    """What transformers loads by itself: no attention of ours, no class of ours."""
    return family_of(family, family).model_class.from_pretrained(folder, dtype=torch.float32).eval()


def inputs(prompt: Prompt) -> dict[str, Tensor]:
    """The prompt as plain transformers takes it."""
    return {
        "input_ids": prompt.input_ids[None],
        "mm_token_type_ids": prompt.mm_token_type_ids[None],
        "pixel_values": prompt.pixel_values,
        "image_grid_thw": prompt.image_grid_thw,
    }


@torch.no_grad()
def logits(model: Any, prompt: Prompt) -> Tensor:
    return model(**inputs(prompt), use_cache=False).logits


def gradients(policy: Policy, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every trainable weight."""
    weights = policy.trainable()
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", KNOWN)
def test_packed_pass_equals_the_naive_path(family: str, variant: str, folder_of: Any, samples: list[Sample]):
    """DeepStack left out of the packed row (.17 off, silently), levels on another picture's tokens, a lost gradient.

    And a state of Qwen3.5 that runs from one completion into the next (.034 off, silently).
    """
    if "nf4" in variant and not family_of(family, family).quantises:
        pytest.skip("its makers advise against 4 bits")
    policy = shaken(Policy.load(folder_of(family), device="cpu", **VARIANTS[variant]))
    rollout = rollout_of(policy, samples)
    assert rollout.finished.any() and not rollout.finished.all()
    assert len({len(prompt) for prompt in rollout.prompts}) == len(samples), "left padding"
    packed, naive = (policy.logprobs(rollout, shared=shared) for shared in (True, False))
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(1))
    found, wanted = (gradients(policy, (logprobs * weights).sum()) for logprobs in (packed, naive))
    errors = {name: relative(found[name], wanted[name]) for name in wanted}
    worst = max(errors, key=errors.__getitem__)
    print(f"\n{family} {variant:32} log-probs {(packed - naive).abs().max():.1e} ", end="")
    print(f"worst gradient {errors[worst]:.1e} of norm {wanted[worst].norm():.1e}: {worst}", end="")
    assert apart(packed, naive) < 1e-5 and errors[worst] < GRADIENTS.get(family, 1e-5)
    assert apart(packed, rollout.logprobs) < 1e-5, "training scores another distribution than was sampled"


def test_delta_nets_differ_by_rounding_alone(folder_of: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch):
    """A true fault below the wide float32 tolerance of Qwen3.5's gradients: it would stay when rounding vanishes."""
    policy = Policy.load(folder_of("qwen3_5"), device="cpu")
    rollout = rollout_of(policy, samples)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(modeling_qwen3_5, "torch", InDouble())
    policy.model.double()
    policy.cache = FeatureCache()  # without the float32 features of the rollout
    packed, naive = (policy.logprobs(rollout, shared=shared) for shared in (True, False))
    found, wanted = (gradients(policy, logprobs.pow(2).sum()) for logprobs in (packed, naive))
    assert packed.dtype == torch.float64 and apart(packed, naive) < 1e-12
    assert max(relative(found[name], wanted[name]) for name in wanted) < 1e-10


class InDouble:
    """torch for transformers' code of the delta net, which computes in float32 whatever its inputs are."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def test_the_state_matters_in_the_miniature(folder_of: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch):
    """A miniature that forgets its prompt: then the tests above would prove nothing of the state."""
    policy = Policy.load(folder_of("qwen3_5"), device="cpu")
    rollout = rollout_of(policy, samples)
    for name in ("conv_states", "recurrent_states"):
        with monkeypatch.context() as change:
            change.setattr(State, "repeated", without(name, State.repeated))
            assert (policy.logprobs(rollout) - rollout.logprobs).abs().max() > 0.01


def without(name: str, repeated: Any) -> Any:
    def changed(self: State, counts: list[int], window: int) -> State:
        state = repeated(self, counts, window)
        getattr(state, name)[0].zero_()
        return state

    return changed


@torch.no_grad()
def test_a_recorded_step_leaves_no_trace(folder_of: Any, samples: list[Sample]):
    """States that the warm-up of a CUDA graph has moved on: the first token would be read three times."""
    policy = Policy.load(folder_of("qwen3_5"), device="cpu")
    start = prefill(policy, [policy.encode(sample) for sample in samples])
    tokens = torch.arange(2 * len(samples))
    once, again = (Graph(policy, start, 2, 3) for _ in range(2))
    before = [(x, x.clone()) for x in again.state()]
    assert len(before) == 3 + 2 * 3, "three layers have a convolution and a matrix each"
    for _ in range(2):
        again.step(tokens)
        put_back(before)
    assert torch.equal(again.step(tokens), once.step(tokens))
    assert torch.equal(again.step(tokens), once.step(tokens))


@pytest.mark.parametrize("family", KNOWN)
def test_both_decoders_sample_what_the_naive_path_does(family: str, folder_of: Any, samples: list[Sample]):
    """A mask where none may be, a decoded token with another picture's levels, left padding that is seen."""
    policy = Policy.load(folder_of(family), device="cpu")
    uniforms = torch.rand(12, 16, generator=torch.Generator().manual_seed(2))
    ways = [{"shared": False}, *({"decoder": name} for name in DECODERS)]
    found = [sample_groups(policy, samples, 4, max_completion_length=16, uniforms=uniforms, **way) for way in ways]
    for rollout in found[1:]:
        assert torch.equal(rollout.completion_ids, found[0].completion_ids)
        assert apart(rollout.logprobs, found[0].logprobs) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", KNOWN)
def test_in_16_bits_what_is_sampled_is_what_learns(family: str, dtype: str, folder_of: Any, samples: list[Sample]):
    """A state or a level that is rounded in one path alone: then the sampler and the learner are two policies."""
    policy = Policy.load(folder_of(family), dtype=dtype, device="cpu")
    rollout = rollout_of(policy, samples)
    ways = [policy.logprobs(rollout, shared=shared) - rollout.logprobs for shared in (True, False)]
    ours, plain = (way[rollout.completion_mask].abs().mean() for way in ways)
    assert ours < 0.02 and ours < 2 * plain, "plain transformers rounds no less than ours"


@pytest.mark.parametrize("family", KNOWN)
def test_greedy_answers_are_those_of_plain_generate(family: str, folder_of: Any, samples: list[Sample]):
    """An error that our naive path shares, as it runs on the same changed classes."""
    policy, outer = Policy.load(folder_of(family), device="cpu"), plain(family, folder_of(family))
    found = sample_groups(policy, samples, 1, max_completion_length=12, greedy=True)
    for row, prompt in enumerate(found.prompts):
        written = outer.generate(
            **inputs(prompt), max_new_tokens=12, do_sample=False, suppress_tokens=policy.banned.tolist()
        )
        assert written[0, len(prompt) :].tolist() == found.tokens(row).tolist()


@pytest.mark.parametrize("family", KNOWN)
def test_a_passed_cache_fills(family: str, folder_of: Any, samples: list[Sample]):
    """The keyword of the cache is asked of Qwen2-VL: a family that has another name for it would see no prompt."""
    policy = Policy.load(folder_of(family), device="cpu")
    start = prefill(policy, [policy.encode(sample) for sample in samples])
    attending = [layer for layer in start.cache.layers if hasattr(layer, "keys")]
    assert {layer.keys.shape[2] for layer in attending} == {max(len(policy.encode(s)) for s in samples)}
    growing = Growing(policy, start, 2, 3)
    growing.step(torch.ones(2 * len(samples), dtype=torch.long))
    assert [layer.get_seq_length() for layer in growing.layers if hasattr(layer, "keys")] == [1] * len(attending)


def test_deepstack_matters_in_the_miniature(folder_of: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch):
    """A miniature too small to tell: then the tests above would prove nothing of DeepStack."""
    policy = Policy.load(folder_of("qwen3_vl"), device="cpu")
    rollout = rollout_of(policy, samples)
    monkeypatch.setattr(type(policy.language_model), "_deepstack_process", lambda self, hidden, mask, level: hidden)
    assert (policy.logprobs(rollout) - rollout.logprobs).abs().max() > 0.01


@pytest.mark.parametrize("targets", ["language", "vision", "all"])
@pytest.mark.parametrize("family", KNOWN)
def test_adapters_sit_where_they_are_asked_for(family: str, targets: Any, folder_of: Any):
    """Qwen2.5-VL's tower trained by accident: its MLP has the names of the language model's."""
    policy = Policy.load(folder_of(family), lora=LoraSettings(r=2, targets=targets), device="cpu")
    adapted = {name for name, layer in policy.core.named_modules() if isinstance(layer, LoraLayer)}
    asked = {"language": ["model.language_model"], "vision": ["model.visual"]}.get(
        targets, ["model.language_model", "model.visual"]
    )
    linears = {name for name, layer in policy.core.named_modules() if isinstance(layer, torch.nn.Linear)}
    linears = {name.removesuffix(".base_layer") for name in linears if ".lora_" not in name}
    assert adapted == {name for name in linears if name.startswith(tuple(asked))}


@pytest.mark.parametrize("family", KNOWN)
def test_adapter_and_merged_model_load_in_plain_libraries(
    family: str, folder_of: Any, samples: list[Sample], tmp_path: Path
):
    """An export that only minirft reads: names of our classes in it, or settings that PEFT understands otherwise."""
    policy = shaken(Policy.load(folder_of(family), lora=LORA, device="cpu"))
    prompt = policy.encode(samples[0])
    ours, base = logits(policy.core, prompt), plain(family, folder_of(family))
    assert (ours - logits(base, prompt)).abs().max() > 0.01
    policy.save(tmp_path / "adapter")
    with quiet_peft():
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert apart(logits(adapted, prompt), ours) < 1e-5
    merge(policy)
    policy.save(tmp_path / "merged")
    write_processor(policy, tmp_path / "merged")
    kind = family_of(family, family)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["architectures"] == [kind.model_class.__name__]
    settings = json.loads((tmp_path / "merged" / "preprocessor_config.json").read_text())
    assert hasattr(transformers, settings["processor_class"])
    assert apart(logits(plain(family, tmp_path / "merged"), prompt), ours) < 1e-5
    again = Policy.load(tmp_path / "merged", device="cpu").encode(samples[0])
    assert torch.equal(again.pixel_values, prompt.pixel_values)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's, with transformers 5.23
@pytest.mark.parametrize("family", KNOWN)
def test_every_command_runs_on_every_family(
    family: str, folder_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A command that knows Qwen2-VL alone: a run that trains, and cannot be resumed, asked or exported."""
    short = ["--model", str(folder_of(family)), "--group-size", "2", "--max-completion-length", "8", "--threads", "1"]
    short += ["--prompts-per-step", "2", "--eval-samples", "2", "--save-every", "1", "--train", "lora", "--json"]
    rft, sft, drawn = (str(tmp_path / name) for name in ("rft", "sft", "drawn"))
    assert main(["train", "tiny_detection", *short, "--dry-run"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert len(planned["prompts"]) == 2
    assert planned["memory"]["peak_gib"] > 0 and planned["time"]["seconds"] > 0
    assert main(["train", "tiny_detection", *short, "--steps", "1", "--out", rft]) == 0
    assert main(["train", "tiny_detection", *short, "--steps", "2", "--resume", rft]) == 0
    assert main(["sft", "tiny_detection", *short, "--sft-steps", "1", "--out", sft]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if "grad_norm" in row]
    assert [row["step"] for row in rows] == [1, 2, 1] and all(row["grad_norm"] > 0 for row in rows[2:])
    for run in (rft, sft):
        assert main(["eval", run, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == 2
        for form in ("adapter", "merged"):
            assert main(["export", run, "--to", form]) == 0
    picture(70, 90).save(tmp_path / "new.png")
    asked = ["predict", rft, str(tmp_path / "new.png"), "--ask", "heart", "--out", drawn, "--json"]
    capsys.readouterr()
    assert main(asked) == 0
    assert {"text", "boxes", "failure"} <= json.loads(capsys.readouterr().out).keys()


def test_no_answer_begins_inside_a_thought(folder_of: Any, samples: list[Sample]):
    """Qwen3.5's template, which opens <think> in the prompt: an answer in our format would never be complete."""
    policy = Policy.load(folder_of("qwen3_5"), device="cpu")
    thought = (
        "{{ '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and not enable_thinking else '<think>\\n' }}"
    )
    policy.processor.tokenizer.chat_template += "{% if add_generation_prompt %}" + thought + "{% endif %}"
    assert policy.decode(policy.encode(samples[0]).input_ids).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma4"}, r"is a gemma4 model; .* Qwen2-VL \(qwen2_vl\), .*, Qwen3.5 \(qwen3_5\)"),
        ({"model_type": None}, "a nameless model"),
        ({"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "layers of sliding_attention"),
        ({"layer_types": ["full_attention"] * 3 + ["linear_attention"]}, "layers of linear_attention"),
        ({"rope_parameters": {**PLAIN_ROPE, "rope_type": "dynamic", "factor": 2.0}}, "dynamic rotary positions"),
    ],
)
def test_what_is_not_known_is_refused_by_name(changes: dict[str, Any], message: str, folder_of: Any, tmp_path: Path):
    """A state that runs from one completion into the next, or a window that the packed pass ignores: wrong silently."""
    config = json.loads((folder_of("qwen2_5_vl") / "config.json").read_text())
    (config if "model_type" in changes else config["text_config"]).update(changes)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        Policy.load(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


BOX = [[100, 200, 500, 1000], [0, 0, 1000, 3]]


def question(size: tuple[int, int], problem: str | None = None) -> Sample:
    problem = prompts.detection("cat") if problem is None else problem
    return Sample("0", picture(*size), "detection", problem, prompts.detection_solution(BOX, 0.5), "cat")


@pytest.mark.parametrize("family", KNOWN)
def test_boxes_are_in_the_frame_of_the_family(family: str, folder_of: Any):
    """Qwen2.5-VL taught thousandths, or pixels of the picture on disk: it earns nothing, and the log says no more."""
    policy, sample = Policy.load(folder_of(family), device="cpu"), question((70, 301))
    unit = policy.image_processor.patch_size * policy.image_processor.merge_size
    prompt = policy.encode(sample)
    wide, high = policy.processor.resized((70, 301))
    assert [high, wide] == (prompt.image_grid_thw[0, 1:] * policy.image_processor.patch_size).tolist()
    assert (wide, high) != (70, 301) and wide % unit == high % unit == 0
    asked = policy.decode(prompt.input_ids)
    in_pixels = f"in pixels of the image, which is {wide} x {high} pixels, integer" in asked
    assert in_pixels == family_of(family, family).pixel_boxes == ("between 0 and 1000" not in asked)
    rollout = written_rollout(policy, [sample], "answer")
    learnt = policy.decode(rollout.tokens(0)[:-1])
    expected = [round(x * side / 1000) for x, side in zip(BOX[0], (wide, high) * 2, strict=True)]
    assert f"[{', '.join(map(str, expected))}]" in learnt if in_pixels else learnt == sample.solution
    read = policy.decode(rollout.tokens(0)[:-1], prompt)
    found = parse("detection", read)
    assert isinstance(found, Detections) and not found.invalid
    assert abs(found.boxes - BOX).max() <= (500 / min(wide, high) + 1 if in_pixels else 0)
    assert reading("detection")(f"<think>a</think> {read}", sample).parts["iou"] > 0.4
    assert policy.processor.count(sample, (70, 301)) == (
        len(prompt) - prompt.mm_token_type_ids.sum(),
        wide * high // unit**2,
    )
    assert rollout.texts == [sample.solution], "the log has thousandths"


def test_trl_refuses_a_family_with_boxes_in_pixels(folder_of: Any):
    """A question without a frame, on which both make one prompt: TRL's rewards would read pixels as thousandths."""
    with pytest.raises(UserError, match="leave TRL out"):
        PictureProcessor.of(Policy.load(folder_of("qwen2_5_vl"), device="cpu"), question((56, 56), "Where is it?"))


def test_a_frame_in_other_words_is_refused(folder_of: Any):
    """A question of one's own that asks Qwen2.5-VL for thousandths, which are then read as pixels."""
    policy = Policy.load(folder_of("qwen2_5_vl"), device="cpu")
    for words in ("Boxes from 0 to 1000.", "Boxes in 0-1000.", "Coordinates are thousandths."):
        with pytest.raises(UserError, match="pixels of the resized picture"):
            policy.encode(question((56, 56), words))
    assert policy.encode(question((56, 56), "Where is the Peugeot 1000?"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[28, 1e1, 5.6e1, 42]", "[500, 119, 1000, 500]"),  # all that the parser takes for a number
        ("[ 28,0 ,\n57, 42]", "[ 500,0 ,\n1018, 500]"),  # outside stays outside
        ("[0, 0, 1e999, 84]", "[0, 0, 1000000, 1000]"),
        ("[-1, 0, 56, 84]", "[-18, 0, 1000, 1000]"),
        ("(28, 0) , (56,84)", "(500, 0) , (1000,1000)"),
        ("[1, 2, 3] [1, 2, 3, 4, 5] [1, 2, 3, 'a']", "[1, 2, 3] [1, 2, 3, 4, 5] [1, 2, 3, 'a']"),
    ],
)
def test_every_box_that_can_be_read_is_rescaled(text: str, expected: str):
    """A number in a form of its own left in pixels, beside others in thousandths."""
    assert rescale(text, (56, 84), (1000, 1000)) == expected


def test_a_thin_box_does_not_vanish():
    """A true box of one thousandth that is no box in pixels: the solution would teach an answer that is malformed."""
    for x in range(1000):
        text = rescale(f"[{x}, 0, {x + 1}, 1000]", (1000, 1000), (56, 84))
        x1, _, x2, _ = json.loads(text)
        assert 0 <= x1 < x2 <= 56 and abs(x1 - x * 0.056) <= 1
