"""This module holds the command that estimates whether a run fits into the memory of a card."""

import json
from dataclasses import dataclass

from minirft import UserError, as_user_error, cost, engine, runs
from minirft.commands.flags import Switch, parse_config

BASE = "coco_8cate_4shot"
"""Config for a model that is named without a config."""


@dataclass(frozen=True)
class FitFlags:
    """`FitFlags` are the flags of `fit` besides the settings."""

    gpu: str | None = None
    """Memory of the card, such as 8GB; without it, print a line for each common size."""
    json: Switch = False
    """Print one JSON object, sizes in GiB."""


def fit(args: list[str]) -> None:
    """Estimate the memory of a run before loading anything: CONFIG_or_MODEL [--gpu 8GB] [--field value ...]."""
    source, args = config_and_flags(args)
    config, flags = parse_config(args, FitFlags(), "minirft fit")
    base, _ = parse_config([source], FitFlags(), "minirft fit")
    cards = [cost.fit.card_size(flags.gpu)] if flags.gpu else list(cost.fit.CARDS)
    verdicts = [cost.fit.judge(config, card, source, base) for card in cards]
    found = cost.fit.as_json(config, verdicts, bool(flags.gpu))
    print(json.dumps(found) if flags.json else cost.fit.report(config, found, verdicts))


def config_and_flags(args: list[str]) -> tuple[str, list[str]]:
    """Return the name of the configuration, and the arguments with it in the first place.

    A model (name, folder or hub id) means `BASE` with that model.  Raises `UserError` when the name is neither.

    >>> config_and_flags(["qwen2-vl-7b", "--gpu", "8GB"])
    ('coco_8cate_4shot', ['coco_8cate_4shot', '--model', 'qwen2-vl-7b', '--gpu', '8GB'])
    """
    if not args or args[0].startswith("-"):
        return BASE, args
    name, rest = args[0], args[1:]
    try:
        runs.find_config(name)
        return name, args
    except UserError as no_config:
        with as_user_error(f"{no_config}; {{why}}", UserError):
            engine.resolve(name)
    return BASE, [BASE, "--model", name, *rest]
