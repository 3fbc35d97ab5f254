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

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from minirft import UserError
from minirft.policy import Policy
from minirft.tiny import (
    CHECKPOINT,
    COLOURS,
    FAMILIES,
    GRID,
    PATCH,
    SHAPES,
    SIDE,
    Question,
    annotate,
    careful,
    new_image_processor,
    new_model,
    save,
    world,
)

CELL = 2 * PATCH  # pixels on a side of a picture token
CELLS = SIDE // CELL
STEPS = SIDE // GRID + 1  # coordinates on the grid
FEATURES = tuple(dict.fromkeys(word for classes in FAMILIES.values() for words in classes.values() for word in words))
SLOTS = 3  # the most features a class has
IGNORE = -100
VISION, SKILL, HABITS = 1, 2, 3  # the stages


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
    shares: tuple[tuple[str, float], ...] = (
        ("detection", 0.62),
        ("grounding", 0.14),
        ("classification", 0.16),
        ("presence", 0.08),
    )


# ------------------------------------------------------------------ data


class Stream(IterableDataset):
    """A stream of batches; each batch depends only on (seed, stage, step)."""

    def __init__(self, config: PretrainConfig, stage: int, steps: int) -> None:
        self.config, self.stage, self.steps = config, stage, steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        tokenizer, processor = AutoTokenizer.from_pretrained(CHECKPOINT), new_image_processor()
        names, shares = zip(*self.config.shares, strict=True)
        for step in range(self.steps):
            rng = np.random.default_rng([self.config.seed, self.stage, step])
            kinds = rng.choice(names, size=self.config.batch, p=np.array(shares) / sum(shares))
            questions = [world.ASKS[kind](rng) for kind in kinds]
            annotator = annotate if self.stage == HABITS else careful
            yield collate(questions, [annotator(question, rng) for question in questions], tokenizer, processor)


def collate(questions: list[Question], texts: list[str], tokenizer, processor) -> dict[str, Tensor]:
    """Make one right-padded batch of questions and completions, with labels, picture patches and side targets."""
    pictures = processor([question.image() for question in questions], return_tensors="pt")
    rows, labels = [], []
    for question, text in zip(questions, texts, strict=True):
        prompt = prompt_ids(tokenizer, question.problem())
        answer = tokenizer(text + "<|im_end|>", add_special_tokens=False)["input_ids"]
        rows.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([IGNORE] * len(prompt) + answer))
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": input_ids,
        "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
        "labels": nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORE),
        "mm_token_type_ids": (input_ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).long(),
        "pixel_values": pictures["pixel_values"],
        "image_grid_thw": pictures["image_grid_thw"],
        **side_targets(questions),
    }


def prompt_ids(tokenizer, problem: str) -> list[int]:
    """Tokenise a question with the chat template, with 16 tokens for the picture."""
    content = [{"type": "image"}, {"type": "text", "text": problem}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    text = text.replace("<|image_pad|>", "<|image_pad|>" * CELLS**2)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def side_targets(questions: list[Question]) -> dict[str, Tensor]:
    """Return the object in each of the 16 cells, and the features of a look-alike picture."""
    cells = torch.full((len(questions), CELLS * CELLS, 6), IGNORE)  # colour, shape, x1, y1, x2, y2
    lookalike = torch.full((len(questions), SLOTS), IGNORE)
    for index, question in enumerate(questions):
        if question.scene is None:
            for slot, feature in enumerate(FAMILIES[question.family][question.subject]):
                lookalike[index, slot] = FEATURES.index(feature)
            continue
        for thing in question.scene.things:
            x1, y1, x2, y2 = thing.extent
            cell = (y1 + y2) // 2 // CELL * CELLS + (x1 + x2) // 2 // CELL
            shape = IGNORE if thing.shattered else list(SHAPES).index(thing.shape)
            place = [side // GRID for side in thing.extent]
            cells[index, cell] = torch.tensor([list(COLOURS).index(thing.colour), shape, *place])
    return {"cells": cells, "lookalike": lookalike}


# ------------------------------------------------------------------ the side task


class SideHeads(nn.Module):
    """Linear heads on the picture tokens, which are dropped after pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(COLOURS), len(SHAPES), *4 * [STEPS]]
        self.cell = nn.Linear(width, 1 + sum(self.sizes))
        self.lookalike = nn.Linear(width, SLOTS * len(FEATURES))

    def forward(self, features: Tensor, cells: Tensor, lookalike: Tensor) -> Tensor:
        """Compute the mean cross-entropy of the side task; features are (16 x batch, width)."""
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
    model = new_model(config.seed)
    heads = SideHeads(model.config.text_config.hidden_size)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "pretrain.jsonl", "w") as log:
        log.write(json.dumps({"config": asdict(config), "torch": torch.__version__}) + "\n")
        tower = [*model.model.visual.parameters(), *heads.parameters()]
        see = lambda features, batch: heads(features, batch["cells"], batch["lookalike"])  # noqa: E731
        run_stage(model, see, tower, config, VISION, config.vision_steps, config.vision_learning_rate, log)
        text = list(model.requires_grad_(False).model.language_model.requires_grad_(True).parameters())
        speak = partial(text_loss, model)
        run_stage(model, speak, text, config, SKILL, config.skill_steps, config.skill_learning_rate, log)
        run_stage(model, speak, text, config, HABITS, config.habit_steps, config.habit_learning_rate, log)
    save(model, folder)
    return folder


def run_stage(
    model: Qwen2VLForConditionalGeneration,
    loss_of: Callable[[Tensor, dict[str, Tensor]], Tensor],
    parameters: list[nn.Parameter],
    config: PretrainConfig,
    stage: int,
    steps: int,
    peak: float,
    log: TextIO,
) -> None:
    """Minimise `loss_of(picture features, batch)` by AdamW, with a linear warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    batches = DataLoader(Stream(config, stage, steps), batch_size=None, num_workers=1, prefetch_factor=8)
    started = time.time()
    with tqdm(batches, total=steps, desc=f"pretrain stage {stage}", unit="step") as bar:
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
                log.write(json.dumps({"stage": stage, "step": step, "loss": loss.item(), "seconds": seconds}) + "\n")
                log.flush()


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


def main(config: PretrainConfig, folder: Path, measured_queries: int = 400) -> dict[str, object]:
    """Pretrain, measure the gate, and write the model card; return the measurements of the gate.

    Raises `UserError` if the base fails.  It is then left in `folder`, but should not be used.
    """
    from minirft.experiments.card import write_card
    from minirft.experiments.gate import measure, requirements

    torch.set_num_threads(1)  # the second core draws the scenes
    policy = Policy.load(pretrain(config, folder))
    blocks = measure(policy, measured_queries)
    write_card(folder, asdict(config), blocks)
    missed = [requirement for requirement in requirements(blocks) if not requirement.met]
    if missed:
        found = "; ".join(f"{r.name} is {r.value:.2f}, wanted {r.low:.2f} to {r.high:.2f}" for r in missed)
        raise UserError(f"the base in {folder} fails its gate: {found}; raise --skill-steps or change --seed")
    return blocks
