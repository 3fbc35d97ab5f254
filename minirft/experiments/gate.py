"""The gate of the base model: its AP50 with the careful habit forced, and by default; training can gain the difference.

A base passes if the careful habit, forced by the first words of the answer, has a good AP50, and if the habit is not
already the default.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jinja2 import StrictUndefined, Template

from minirft.evaluation import metrics
from minirft.policy import Policy
from minirft.rewards import is_well_formed
from minirft.sampler import sample_groups
from minirft.samples import Prompt, Sample
from minirft.tiny import BROKEN_TAGS, CAREFUL_SHARE, CAREFUL_START, held_out

FORCED = f"<think>{CAREFUL_START}"
THINKS_CAREFULLY = CAREFUL_START.strip()


class Requirement(NamedTuple):
    """A measured number and its required range."""

    name: str
    value: float
    low: float
    high: float = 1.0

    @property
    def met(self) -> bool:
        return self.low <= self.value <= self.high


def force(policy: Policy, prompt: Prompt, words: str) -> Prompt:
    """Append the first words of the answer to the prompt."""
    ids = torch.tensor(policy.tokenizer(words, add_special_tokens=False)["input_ids"], dtype=torch.long)
    first = len(prompt) + prompt.rope_delta
    places = torch.arange(first, first + len(ids)).expand(3, -1)
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, ids]),
        mm_token_type_ids=torch.cat([prompt.mm_token_type_ids, torch.zeros_like(ids)]),
        position_ids=torch.cat([prompt.position_ids, places], dim=1),
    )


def answers(policy: Policy, samples: list[Sample], *, greedy: bool, forced: str = "", seed: int = 0) -> list[str]:
    """Sample one completion for each sample; every completion begins with the words `forced`."""
    texts: list[str] = []
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(samples), 50):
        prompts = [force(policy, policy.encode(sample), forced) for sample in samples[start : start + 50]]
        rollout = sample_groups(policy, prompts, 1, max_completion_length=96, greedy=greedy, generator=generator)
        texts += [forced + text for text in rollout.texts]
    return texts


def measure(policy: Policy, n: int = 400) -> dict[str, Any]:
    """Measure held-out metrics by default and with the careful habit forced, greedy and sampled.

    Each block has the share of careful answers.  "sampled_default" also has the `format_gap`, and "questions" the share
    of questions about an absent category.
    """
    samples = held_out("detection", n)
    absent = sum("No Objects" in sample.solution for sample in samples) / n
    blocks: dict[str, Any] = {"questions": {"absent": absent}}
    for mode in ("greedy", "sampled"):
        for habit, forced in (("default", ""), ("careful", FORCED)):
            texts = answers(policy, samples, greedy=mode == "greedy", forced=forced)
            share = sum(THINKS_CAREFULLY in text for text in texts) / n
            blocks[f"{mode}_{habit}"] = {**metrics("detection", texts, samples), "careful_share": share}
            if mode == "sampled" and not forced:
                blocks["sampled_default"]["format_gap"] = format_gap(texts)
    return blocks


def format_gap(texts: list[str]) -> float:
    """Return the share of well-formed answers among the careful ones minus that among the others.

    >>> format_gap([f"<think>{CAREFUL_START}red</think> <answer>a</answer>", "<think>b</think> <answer>a"])
    1.0
    """
    shares = []
    for careful in (True, False):
        mine = [is_well_formed(text) for text in texts if (THINKS_CAREFULLY in text) == careful]
        shares.append(sum(mine) / max(1, len(mine)))
    return shares[0] - shares[1]


def requirements(blocks: dict[str, Any]) -> list[Requirement]:
    """Return the requirements: able when careful, careful in a third of samples, quick by default, equal format.

    A gap in format of .10 is 2 standard errors of 400 answers, a third of them careful.
    """
    return [
        Requirement("pooled AP50, careful habit forced, greedy", blocks["greedy_careful"]["ap50_pooled"], 0.50),
        Requirement("pooled AP50, careful habit forced, sampled", blocks["sampled_careful"]["ap50_pooled"], 0.40),
        Requirement("share of careful answers, sampled", blocks["sampled_default"]["careful_share"], 0.24, 0.42),
        Requirement("share of careful answers, greedy", blocks["greedy_default"]["careful_share"], 0.0, 0.05),
        Requirement("format kept, careful less quick", blocks["sampled_default"]["format_gap"], -0.10, 0.10),
        Requirement("share of absent categories", blocks["questions"]["absent"], 0.20, 0.30),
    ]


def write_card(folder: Path, config: dict[str, Any], blocks: dict[str, Any]) -> None:
    """Write `MODEL_CARD.md`, which is `card.md.jinja` with measured numbers, and `gate.json` beside the weights."""
    (folder / "gate.json").write_text(json.dumps(blocks, indent=1) + "\n")
    text = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    template = Template(text, trim_blocks=True, undefined=StrictUndefined)
    known = {"careful": CAREFUL_SHARE, "broken": BROKEN_TAGS, "seed": config["seed"]}
    card = template.render(**known, blocks=blocks, gate=requirements(blocks), recipe=json.dumps(config, indent=1))
    (folder / "MODEL_CARD.md").write_text(card + "\n")
