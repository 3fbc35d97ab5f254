"""Settings: what a TOML file may say, what a wrong one gets, and that a run's file reads back equal."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirft import UserError
from minirft.policy import LoraSettings
from minirft.runs import config as config_module
from minirft.runs.config import SHIPPED, DataConfig, GRPOConfig, load_config
from minirft.runs.toml import differences, from_table, read_toml, to_toml, tomllib

NAMES = sorted(path.stem for path in SHIPPED.glob("*.toml"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(written(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message and "mine.toml" in message
    return message


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_config_loads_by_its_name(name: str):
    """A field renamed in the dataclass and forgotten in a shipped file."""
    assert load_config(name).out == Path(f"runs/{name}")


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_value_has_its_source(name: str):
    """A number of the paper's beside one of ours, with nothing to tell them apart."""
    lines = (SHIPPED / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    obvious = (
        "model = ",
        "out = ",
        "kind = ",
        "task = ",
        "seed = ",
        "eval_samples = ",
        "eval_batch = ",
        "save_every = ",
    )
    settings = [line for line in lines if " = " in line and not line.startswith(("#", " ", *obvious))]
    assert settings and not [line for line in settings if "#" not in line]


def test_paper_settings():
    """Visual-RFT's few-shot row (facts sheet D1), of which a silent change would void the comparison."""
    config = load_config("coco_8cate_4shot")
    assert (config.group_size, config.temperature, config.kl_coef, config.max_pixels) == (8, 1.0, 0.04, 401408)
    assert (config.steps, config.prompts_per_step, config.max_completion_length) == (200, 16, 256)
    assert (config.max_prompt_length, config.loss, config.advantage_scale) == (1024, "grpo", "std")
    assert config.data.shots == 4 and len(config.data.categories) == 8


def test_base65_and_novel15_share_no_category():
    """A category trained on and called novel."""
    data = load_config("coco_base65").data
    assert (len(data.categories), len(data.eval_categories)) == (65, 15)
    assert not set(data.categories) & set(data.eval_categories)


def test_every_field_is_documented():
    """A flag without a unit, a symbol or a source in its help."""
    for node in ast.parse(inspect.getsource(config_module)).body:
        if isinstance(node, ast.ClassDef):
            for field, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(following, ast.Expr), f"{node.name}.{field.target.id} has no docstring"


def test_toml_round_trip_keeps_every_field(tmp_path: Path):
    """A run whose config.toml loses a field would resume with the default."""
    config = GRPOConfig(
        train="lora",
        lora=LoraSettings(r=4),
        data=DataConfig(categories=("stop sign", 'a "quoted" one'), annotations=Path("a b/ü.json")),
        reward_weights={"iou": 2.0, "format": 0.5},
        learning_rate=1e-6,
        max_pixels=401408,
    )
    assert load_config(written(tmp_path, to_toml(config))) == config


@given(st.floats(1e-12, 1e3), st.text(max_size=20).filter(lambda s: "\x7f" not in s), st.integers(0, 2**62))
def test_toml_round_trip_of_any_value(rate: float, name: str, seed: int):
    """1e-06 that reads back as text, or a name whose quotes end the string."""
    config = GRPOConfig(learning_rate=rate, model=name, seed=seed)
    assert from_table(GRPOConfig, tomllib.loads(to_toml(config))) == config


def test_unknown_key_names_the_nearest(tmp_path: Path):
    """A misspelt setting that is silently ignored trains with the default."""
    assert "unknown key 'group_sise'; did you mean 'group_size'?" in refusal(tmp_path, "group_sise = 4")
    assert "did you mean 'data.annotations'?" in refusal(tmp_path, "[data]\nanotations = 'a.json'")
    assert "unknown key 'zzz'" in refusal(tmp_path, "zzz = 4")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('steps = "60"', "steps = '60': expected a whole number"),
        ("steps = 1.5", "steps = 1.5: expected a whole number"),
        ("steps = true", "steps = True: expected a whole number"),
        ("learning_rate = 'fast'", "expected a number"),
        ("train_vision = 1", "expected true or false"),
        ("quantize = 'int8'", "expected one of none, nf4"),
        ("data = 3", "expected a table"),
        ("[data]\ncategories = 'cat'", "expected a list of text in quotes"),
        ("[data]\ncategories = [1]", "expected text in quotes"),
        ("[reward_weights]\niou = 'big'", "reward_weights.iou = 'big': expected a number"),
        ("max_pixels = 'many'", "expected a whole number"),
        ("out = 3", "expected a path"),
    ],
)
def test_wrong_type_says_what_is_expected(tmp_path: Path, text: str, what: str):
    """A string where a number belongs, which would fail hours later or compare as text."""
    assert what in refusal(tmp_path, text)


def test_syntax_error_names_the_line(tmp_path: Path):
    """A parser's exception without the place."""
    assert "line 2" in refusal(tmp_path, "steps = 3\nseed = = 4")


def test_a_file_that_is_no_text(tmp_path: Path):
    """Bytes that are not UTF-8 as a traceback."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(path)


def test_missing_config_names_the_nearest():
    """A typo in the name of a shipped config as FileNotFoundError."""
    with pytest.raises(UserError, match="did you mean tiny_detection"):
        load_config("tiny_detecton")


def test_the_folder_of_a_run_is_a_config(tmp_path: Path):
    """`minirft demo --config runs/mine` refused as "no config", with the advice to give the folder of a run."""
    written(tmp_path, "steps = 7").rename(tmp_path / "config.toml")
    assert load_config(tmp_path).steps == 7


@pytest.mark.parametrize(
    "change",
    [
        {"group_size": 1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"kl_coef": -0.1},
        {"clip_eps": 1.0},
        {"rows_per_pass": -1},
        {"max_pixels": 100},
        {"quantize": "nf4"},  # of a full-parameter run
        {"offload_vision": True, "train_vision": True},
        {"offload_vision": True, "train": "lora", "lora": LoraSettings(targets="all")},
        {"offload_embedding": True},  # of a full-parameter run
        {"reward_weights": {"iou": float("inf")}},
        {"warmup_steps": -1},
        {"prompts_per_step": 0},
        {"skip_degenerate": True, "advantage_scale": "none"},  # drops groups that carry advantage
    ],
)
def test_values_that_cannot_work_are_refused_by_name(change: dict):
    """A group of one or temperature 0, which divide by zero deep inside."""
    with pytest.raises(UserError) as caught:
        GRPOConfig(**change)
    assert ("train" if "quantize" in change else next(iter(change))) in str(caught.value)


@pytest.mark.parametrize("change", [{"negatives": 1.0}, {"shots": -1}])
def test_data_values_that_cannot_work(change: dict):
    """A share of 1, for which the number of negatives is infinite."""
    with pytest.raises(UserError, match=f"data.{next(iter(change))}"):
        DataConfig(**change)


def test_differences_reach_nested_fields():
    """A resumed run that does not notice other data."""
    old = GRPOConfig()
    new = dataclasses.replace(old, seed=1, data=DataConfig(shots=4), lora=LoraSettings(r=8))
    assert sorted(differences(old, new)) == ["data.shots", "lora.r", "seed"]
    assert differences(old, GRPOConfig()) == []


def test_reading_a_missing_file():
    """The one error that `find_config` cannot catch: a file that goes away."""
    with pytest.raises(UserError, match="cannot be read"):
        read_toml(Path("nowhere.toml"))
