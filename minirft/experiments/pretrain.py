"""The recipe of the embedded checkpoint: training from random weights on two CPU cores.

1. The vision tower alone learns to classify, for each of its 16 picture tokens, the colour and shape of the object
   centred there, and the places of its four sides.
2. The tower is frozen, as in fine-tuning, and the read-out heads are dropped.  The text model learns the skill: it
   imitates the careful annotator (`annotators.py`).
3. The text model learns the habits: it imitates both annotators in their shares, with broken tags.  The skill stays,
   and the quick habit becomes the default.

`gate` then measures the base with the careful habit forced, and by default.  A base that fails is not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration

from minirft import UserError, tiny
from minirft.engine import Processor, load_processor
from minirft.experiments.gate import measure, requirements, write_card
from minirft.policy import Policy
from minirft.runs import write_rows

CELL = 2 * tiny.PATCH  # pixels on a side of a picture token
CELLS = tiny.SIDE // CELL
STEPS = tiny.SIDE // tiny.GRID + 1  # coordinates on the grid
FEATURES = list(dict.fromkeys(word for family in tiny.FAMILIES.values() for words in family.values() for word in words))
SLOTS = 3  # the most features a class has
IGNORE = -100
STAGES = ("vision", "skill", "habit")
Shares = tuple[tuple[str, float], ...]  # of the kinds of questions


@dataclass(frozen=True)
class PretrainConfig:
    """The numbers of the recipe, chosen by measurements on one core (docs/experiments.md)."""

    seed: int = 0
    batch: int = 32  # questions a step
    vision_steps: int = 4000
    vision_learning_rate: float = 3e-3
    skill_steps: int = 3000
    skill_learning_rate: float = 2e-3
    habit_steps: int = 1200
    habit_learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.05
    shares: Shares = (("detection", 0.62), ("grounding", 0.14), ("classification", 0.16), ("presence", 0.08))


# ------------------------------------------------------------------ data


class Stream(IterableDataset):
    """A stream of batches; each batch depends only on (seed, stage, step)."""

    def __init__(self, config: PretrainConfig, stage: str, steps: int) -> None:
        self.config, self.stage, self.steps = config, stage, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        processor = load_processor(str(tiny.CHECKPOINT), None, None)
        annotator = tiny.annotate if self.stage == "habit" else tiny.careful
        names, shares = zip(*self.config.shares, strict=True)
        for step in range(self.steps):
            rng = np.random.default_rng([self.config.seed, 1 + STAGES.index(self.stage), step])
            kinds = rng.choice(names, size=self.config.batch, p=np.array(shares) / sum(shares))
            questions = [tiny.world.ASKS[kind](rng) for kind in kinds]
            yield collate(questions, [annotator(question, rng) for question in questions], processor)


def collate(questions: list[tiny.Question], texts: list[str], processor: Processor) -> dict[str, Tensor]:
    """Make one right-padded batch of questions and completions, with labels, picture patches and side targets."""
    prompts = [processor(tiny.world.sample_of(question)) for question in questions]
    answers = [processor.tokenizer(f"{text}<|im_end|>", add_special_tokens=False)["input_ids"] for text in texts]
    pairs = [(prompt["input_ids"], torch.tensor(answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    pad = partial(nn.utils.rnn.pad_sequence, batch_first=True)
    input_ids = pad([torch.cat(pair) for pair in pairs], padding_value=processor.tokenizer.pad_token_id)
    labels = [torch.cat([torch.full_like(prompt, IGNORE), answer]) for prompt, answer in pairs]
    return {
        "input_ids": input_ids,
        "attention_mask": pad([torch.ones_like(row) for row in labels]),
        "labels": pad(labels, padding_value=IGNORE),
        "mm_token_type_ids": (input_ids == processor.picture_id).long(),
        **{name: torch.cat([prompt[name] for prompt in prompts]) for name in ("pixel_values", "image_grid_thw")},
        **side_targets(questions),
    }


def side_targets(questions: list[tiny.Question]) -> dict[str, Tensor]:
    """Return the object in each of the 16 cells, and the features of a look-alike picture."""
    cells = torch.full((len(questions), CELLS * CELLS, 6), IGNORE)  # colour, shape, x1, y1, x2, y2
    lookalike = torch.full((len(questions), SLOTS), IGNORE)
    for index, question in enumerate(questions):
        if question.scene is None:
            for slot, feature in enumerate(tiny.FAMILIES[question.family][question.subject]):
                lookalike[index, slot] = FEATURES.index(feature)
            continue
        for thing in question.scene.things:
            x1, y1, x2, y2 = thing.extent
            cell = (y1 + y2) // 2 // CELL * CELLS + (x1 + x2) // 2 // CELL
            shape = IGNORE if thing.shattered else list(tiny.SHAPES).index(thing.shape)
            place = [side // tiny.GRID for side in thing.extent]
            cells[index, cell] = torch.tensor([list(tiny.COLOURS).index(thing.colour), shape, *place])
    return {"cells": cells, "lookalike": lookalike}


# ------------------------------------------------------------------ the side task


class SideHeads(nn.Module):
    """Linear heads on the picture tokens, which are dropped after pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(tiny.COLOURS), len(tiny.SHAPES), *4 * [STEPS]]
        self.cell = nn.Linear(width, 1 + sum(self.sizes))
        self.lookalike = nn.Linear(width, SLOTS * len(FEATURES))

    def forward(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Compute the mean cross-entropy of the side task; features are (16 x batch, width)."""
        cells, lookalike = batch["cells"], batch["lookalike"]
        scenes = lookalike[:, 0] == IGNORE
        tokens = features.view(len(cells), CELLS * CELLS, -1)
        present, *scores = self.cell(tokens[scenes]).split([1, *self.sizes], -1)
        truth = cells[scenes]
        loss = F.binary_cross_entropy_with_logits(present[..., 0], (truth[..., 0] != IGNORE).float())
        for index, score in enumerate(scores):
            weight = 1.0 if index < 2 else 0.25
            loss = loss + weight * F.cross_entropy(score.flatten(0, 1), truth[..., index].flatten())
        if not scenes.all():
            guess = self.lookalike(tokens[~scenes].mean(1)).view(-1, SLOTS, len(FEATURES))
            loss = loss + F.cross_entropy(guess.transpose(1, 2), lookalike[~scenes])
        return loss


# ------------------------------------------------------------------ training


def pretrain(config: PretrainConfig, folder: Path) -> Path:
    """Run the three stages, save the model into `folder` with a JSON-lines log beside it, return the folder."""
    torch.manual_seed(config.seed)
    model = tiny.new_model(config.seed)
    heads = SideHeads(model.config.text_config.hidden_size)
    log = folder / "pretrain.jsonl"
    write_rows(log, [{"config": asdict(config), "torch": torch.__version__}], mode="wb")
    tower = [*model.model.visual.parameters(), *heads.parameters()]
    run_stage("vision", model, heads, tower, config, log)
    text = list(model.requires_grad_(False).model.language_model.requires_grad_(True).parameters())
    for stage in ("skill", "habit"):
        run_stage(stage, model, partial(text_loss, model), text, config, log)
    tiny.save(model, folder)
    return folder


def run_stage(
    stage: str,
    model: Qwen2VLForConditionalGeneration,
    loss_of: Callable[[Tensor, dict[str, Tensor]], Tensor],
    parameters: list[nn.Parameter],
    config: PretrainConfig,
    log: Path,
) -> None:
    """Minimise `loss_of(picture features, batch)` by AdamW, with a linear warm-up and a cosine to zero."""
    number, steps = 1 + STAGES.index(stage), getattr(config, f"{stage}_steps")
    peak: float = getattr(config, f"{stage}_learning_rate")
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    batches = DataLoader(Stream(config, stage, steps), batch_size=None, num_workers=1, prefetch_factor=8)
    started = time.time()
    with tqdm(batches, total=steps, desc=f"pretrain stage {number}", unit="step") as bar:
        for step, batch in enumerate(bar):
            optimizer.param_groups[0]["lr"] = peak * schedule(step, steps, config.warmup)
            features = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
            loss = loss_of(features, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            if step % 50 == 0 or step == steps - 1:
                bar.set_postfix(loss=loss.item())
                seconds = round(time.time() - started, 1)
                write_rows(log, [{"stage": number, "step": step, "loss": loss.item(), "seconds": seconds}])


def schedule(step: int, steps: int, warmup: int) -> float:
    """Return the share of the peak rate at a step: a linear rise over `warmup` steps times a cosine to zero.

    >>> [round(schedule(step, 10, 1), 2) for step in (0, 5, 9)]
    [1.0, 0.5, 0.02]
    """
    return min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))


def text_loss(model: Qwen2VLForConditionalGeneration, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Compute the mean cross-entropy of the completions' tokens, given the features of the tower."""
    ids, types, mask = (batch[name] for name in ("input_ids", "mm_token_type_ids", "attention_mask"))
    embeds = model.get_input_embeddings()(ids).masked_scatter(types.bool()[..., None], features)
    positions, _ = model.model.get_rope_index(ids, types, image_grid_thw=batch["image_grid_thw"], attention_mask=mask)
    hidden = model.model.language_model(
        inputs_embeds=embeds, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    targets = batch["labels"][:, 1:]
    counted = targets != IGNORE
    return F.cross_entropy(model.lm_head(hidden[:, :-1][counted]), targets[counted])


def main(config: PretrainConfig, folder: Path) -> dict[str, object]:
    """Pretrain, measure the gate, and write the model card; return the measurements of the gate.

    Raises `UserError` if the base fails.  It is then left in `folder`, but should not be used.
    """
    torch.set_num_threads(1)  # the second core draws the scenes
    blocks = measure(Policy.load(pretrain(config, folder)))
    write_card(folder, asdict(config), blocks)
    missed = [requirement for requirement in requirements(blocks) if not requirement.met]
    if missed:
        found = "; ".join(f"{r.name} is {r.value:.2f}, wanted {r.low:.2f} to {r.high:.2f}" for r in missed)
        raise UserError(f"the base in {folder} fails its gate: {found}; raise --skill-steps or change --seed")
    return blocks
