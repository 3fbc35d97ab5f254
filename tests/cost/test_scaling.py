"""`minirft bench --scaling`: counts are exact, so the growth of each arm is a formula, and a budget is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_bench import LANGUAGE, RANK, random_config, write_random_model

from minirft.commands.bench import bench
from minirft.cost import scaling
from minirft.cost.lower_bound import backward_flops, forward_flops
from minirft.cost.request import Request
from minirft.cost.scaling import design, fit, measure_scaling, scaling_table, tokens

SHORT = {"group": (0.5, 2), "prompt": (0.5, 2, 4), "completion": (0.5, 2)}
"""Fewer factors: with the corners still enough for nine terms."""
MIDDLE = "--prompt 56 --completion 4 --group 4"


def run(folder: Path, model: str, more: str = "--no-trl") -> dict[str, Any]:
    """What the command writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "AXES", SHORT)
        bench(f"--scaling --model {model} {MIDDLE} --steps 1 --seconds 9999 --out {folder}/s.json {more}".split())
    return json.loads((folder / "s.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_random_model(tmp_path_factory.mktemp("scaling"))


@pytest.fixture(scope="module")
def found(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("out"), model)


def theirs() -> float:
    """FLOPs per prompt token and completion of a trainer that copies the prompt: no attention, and the head everywhere.

    They are a forward pass for the sampler and a forward and backward pass for the update, in the linear layers and the
    head, less the attention on the prompt of each last completion token, which the sampler does not decode.
    """
    config = random_config()

    def passes(n: float) -> float:
        square = [(n, n)]
        learning = forward_flops(config, RANK, square, n) + backward_flops(config, RANK, square, n)
        return forward_flops(config, RANK, square, 0) + learning

    linear = (4 * passes(1.0) - passes(2.0)) / 2  # a n + b n^2 -> a
    return linear - one_key()


def one_key() -> float:
    """FLOPs of the attention of one token on one key in all layers."""
    return 4 * LANGUAGE["hidden_size"] * LANGUAGE["num_hidden_layers"]


def test_ours_grows_with_the_group_by_completions_only(found: dict[str, Any]):
    """A prompt that passes the model once more for every completion, in the sampler or in the update."""
    flops = {arm: found["fits"]["language_flops"][arm] for arm in ("ours", "naive")}
    assert len(found["points"]) == 12 and not found["not_measured"]
    for of in flops.values():
        assert of["largest_error"] < 1e-12  # the nine terms explain every count to rounding
    slopes = {arm: of["GP"][0] for arm, of in flops.items()}
    assert slopes["naive"] == pytest.approx(theirs(), rel=1e-9)
    # No term of P without C: the sampler's C - 1 tokens attend to the prompt, and GPC counts C of them.
    assert slopes["ours"] == pytest.approx(-one_key(), rel=1e-9) and abs(slopes["ours"]) < 1e-3 * slopes["naive"]
    assert abs(flops["ours"]["GP²"][0]) < 1e-9 * flops["naive"]["GP²"][0]
    # What the naive path pays for every completion, ours pays once, but for the head on the prompt's places.
    head = 4 * LANGUAGE["hidden_size"] * LANGUAGE["vocab_size"]
    assert flops["ours"]["P"][0] == pytest.approx(theirs() + one_key() - head, rel=1e-9)
    assert flops["ours"]["P²"][0] == pytest.approx(flops["naive"]["GP²"][0], rel=1e-9)


def test_the_command_leaves_a_figure_and_names_the_machine(found: dict[str, Any], tmp_path: Path):
    """Numbers of which nobody can say where they were measured; a table or a figure that a missing arm breaks."""
    assert found["header"]["processor"] and found["header"]["threads"] == 1
    assert all(point["trl"] is None and point["ours"]["saved_bytes"] > 0 for point in found["points"])
    assert "| GP | -512 | " in scaling_table(found) and "12 points were measured" in scaling_table(found)
    titles = scaling.panels(found)
    assert [*titles] == [f"{unit} over {n}" for unit in ("GFLOP", "seconds", "MB kept") for n in "GPC"]
    assert titles["GFLOP over G"]["ours"][0] == (2, 4, 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trl_copies_the_prompt(model: str, tmp_path: Path):
    """A claim about TRL that its next version makes untrue."""
    pytest.importorskip("trl")
    found = run(tmp_path, model, "--no-naive")
    flops = found["fits"]["language_flops"]["trl"]
    assert flops["largest_error"] < 1e-12 and flops["GP"][0] == pytest.approx(theirs(), rel=1e-9)
    assert (tmp_path / "s.png").stat().st_size > 10_000


def test_points_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch, model: str):
    """A budget that is overdrawn without a word, or a step that ends the process for want of memory."""
    clock = [0.0]
    monkeypatch.setattr(scaling.time, "monotonic", lambda: clock[0])

    def measured(request: Request) -> dict[str, Any]:
        point = {name: getattr(request, name) for name in ("prompt", "completion", "group")}
        wall = 0.01 * tokens(point)
        clock[0] += (2 + request.steps) * wall
        row = {"wall_seconds": wall, "seconds": wall, "language_flops": 1, "saved_bytes": 1000 * tokens(point)}
        return point | {"ours": row, "naive": None, "trl": None}

    monkeypatch.setattr(scaling, "measured", measured)
    *_, found = measure_scaling(Request(model=model), seconds=500)
    assert len(found["points"]) + len(found["not_measured"]) == len(design(scaling.MIDDLE)) == 19
    assert clock[0] <= 500 < clock[0] + 3 * 0.01 * tokens(found["not_measured"][0])
    assert found["not_measured"][0]["why"].endswith(f"and {500 - clock[0]:.0f} were left")
    monkeypatch.setattr(scaling, "ROOM", 0.0)
    *_, found = measure_scaling(Request(model=model), seconds=500)
    assert [row["why"] for row in found["not_measured"]][:1] == ["would keep 0.0 GiB of activations"]


def test_a_fit_that_is_not_determined_is_left_out(found: dict[str, Any]):
    """Coefficients of a matrix without full rank."""
    on_one_axis = [point for point in found["points"] if point["prompt"] == 56 and point["completion"] == 4]
    assert fit(on_one_axis, "ours", "seconds", ("1", "G")) is not None
    assert fit(on_one_axis, "ours", "seconds", ("1", "P")) is None
    assert fit(on_one_axis, "ours", "seconds", ("1", "G", "GC")) is None
