"""The one file that knows how versions of transformers differ, and that nothing else does."""

import re
import warnings
from pathlib import Path

import torch
from transformers import DynamicCache

from minirft.engine import versions
from minirft.engine.decoding import Buffer, Growing, prefill
from minirft.policy import Policy
from minirft.samples import Sample

PACKAGE = Path(versions.__file__).parents[1]
ROOT = PACKAGE.parent
DIFFER = re.compile(
    r"past_key_values|(gradient|activation)_checkpointing_enable|image_processing\w*qwen2_vl|_pil_"
    r"|parse_version|\bVersion\(|version_info|__version__ *[<>=(]|\.version\(.*\) *[<>=]"
)


def test_a_passed_cache_fills(policy: Policy, samples: list[Sample]):
    """A name that this version of transformers does not know: no error, an empty cache, a model that sees no prompt."""
    prompts = [policy.encode(sample) for sample in samples]
    start = prefill(policy, prompts)
    assert {layer.keys.shape[2] for layer in start.cache.layers} == {max(map(len, prompts))}
    growing = Growing(policy, start, 2, capacity=3)
    growing.step(torch.ones(2 * len(prompts), dtype=torch.long))
    assert [layer.length for layer in growing.layers] == [1] * len(growing.layers)
    assert all(isinstance(layer, Buffer) for layer in growing.layers)


def test_the_other_name_is_swallowed_or_warned_about(policy: Policy):
    """The reason for the choice: were it an error or an alias, `CACHE` could go."""
    other = {"cache": "past_key_values", "past_key_values": "cache"}[versions.CACHE]
    cache = DynamicCache(config=policy.language_model.config)
    token = policy.embed(torch.ones(1, 1, dtype=torch.long))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        policy.language_model(inputs_embeds=token, use_cache=True, **{other: cache})
    assert cache.get_seq_length() == 0 or any(other in str(warning.message) for warning in said)


def test_layers_are_computed_again_in_the_language_model_alone(miniature: Path):
    """A switch that is on nowhere, or on the frozen tower as well."""
    core = Policy.load(miniature, checkpointing=True).core.model
    assert all(layer.gradient_checkpointing for layer in core.language_model.layers)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in core.visual.modules())


def test_versions_are_known_in_one_file_only():
    """A second place that the next release of transformers breaks, or a comparison of version strings."""
    files = [file for part in ("minirft", "tests", "notebooks") for file in (ROOT / part).rglob("*.[pi][yp]*")]
    files = [file for file in files if file.suffix in (".py", ".ipynb") and file.name != Path(__file__).name]
    assert len(files) > 200
    assert [file for file in files if DIFFER.search(file.read_text(encoding="utf-8"))] == [Path(versions.__file__)]
