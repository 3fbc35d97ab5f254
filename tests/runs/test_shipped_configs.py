"""The shipped settings of real models: what their files say of memory, and that they ask for the paper's data."""

import re
from dataclasses import dataclass

import pytest

from minirft.commands.flags import parse_config
from minirft.cost import fit
from minirft.runs.config import SHIPPED, load_config


@dataclass(frozen=True)
class Nothing:
    """No flags besides the settings."""


NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))
REAL = [name for name in NAMES if not name.startswith("tiny")]


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_fits_8_gb(name: str):
    """A config that runs out of memory on the card it is meant for."""
    assert fit.account(load_config(name)).peak <= fit.usable(8.0) * fit.GIB


@pytest.mark.parametrize("name", REAL)
def test_what_a_file_says_of_memory_is_what_fit_says(name: str):
    """A comment that the code has overtaken, or flags in it that do not exist."""
    text = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8")
    lines = re.findall(r"^# +(\d+) GB card: +(\d+\.\d\d) GiB (.*)$", text, re.M)
    assert [int(card) for card, _, _ in lines] == [8, 16, 24]
    for card, peak, flags in lines:
        config, _ = parse_config([name, *(() if flags == "as it is" else flags.split())], Nothing(), "test")
        found = fit.account(config).peak / fit.GIB
        assert f"{found:.2f}" == peak and found <= fit.usable(float(card))


@pytest.mark.parametrize("name", REAL)
def test_groups_of_the_paper(name: str):
    """7B with 2B's group, or a coefficient left at this package's default for the tiny model."""
    config = load_config(name)
    assert config.model == ("qwen2-vl-7b" if name.endswith("_7b") else "qwen2-vl-2b")
    assert config.group_size == (4 if name.endswith("_7b") else 8)
    common = (config.kl_coef, config.max_pixels, config.prompts_per_step, config.max_completion_length)
    assert common == (0.04, 401408, 16, 256)
    assert config.sft_steps == config.steps == (750 if "base65" in name else 500 if "reasonseg" in name else 200)


def test_every_table_of_the_paper_has_its_config():
    """An experiment of the paper without a file, and a set of rare categories that lost one."""
    tables = {"flowers", "pets", "aircraft", "cars", "coco_8cate", "lvis", "own_coco", "reasonseg", "coco_base65"}
    assert all(any(name.startswith(table) for name in REAL) for table in tables)
    for size in ("", "_7b"):
        rare, known = load_config(f"coco_base65_lvis13{size}").data, load_config(f"coco_base65{size}").data
        assert rare.categories == known.categories and len(rare.categories) == 65
        assert (rare.eval_kind, len(rare.eval_categories), len(known.eval_categories)) == ("lvis", 13, 15)
        assert len(load_config(f"lvis_6cate_10shot{size}").data.categories) == 6
