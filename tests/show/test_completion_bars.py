"""Bars over the completions of a group: heights, places and labels are the data's."""

from __future__ import annotations

import pytest
import torch

from minirft.show.group_bars import completion_bars
from minirft.show.style import RUNS, panels, png


def test_every_bar_has_its_value_its_place_and_its_series_colour() -> None:
    """Bug: series interleaved wrongly, so that o2's value stands over o1."""
    figure = completion_bars({"before": [0.1, 0.2, 0.3], "after": torch.tensor([0.4, 0.5, 0.6])}, "probability")
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert [round(centre) for centre in centres] == [0, 1, 2, 0, 1, 2]
    assert centres[0] < centres[3] < 0.5 < centres[1]
    assert len({bar.get_facecolor() for bar in bars[:3]}) == 1 and bars[0].get_facecolor() != bars[3].get_facecolor()


def test_numbers_are_written_on_one_or_two_series_only() -> None:
    """Bug: the numbers of three series overlap."""
    few, many = ({name: [1.0, -0.25] for name in names} for names in ("ab", "abc"))
    written = [text.get_text() for text in completion_bars(few, "x", form="{:+.2f}").axes[0].texts]
    assert written == ["+1.00", "-0.25"] * 2
    assert not completion_bars(many, "x").axes[0].texts


def test_draws_into_given_axes_and_leaves_the_legend_to_the_caller() -> None:
    """Bug: a panel of several opens a figure or a legend of its own."""
    figure, (left, right) = panels(2, 2, 3, 2)
    assert completion_bars({"a": [1.0], "b": [2.0]}, "x", "left", axes=left) is figure
    assert not figure.legends and not right.patches and left.get_title(loc="left") == "left"
    assert png(figure).startswith(b"\x89PNG")


def test_a_legend_names_every_series_in_order() -> None:
    """Bug: the legend's colours are not those of the bars."""
    figure = completion_bars({"a": [1.0], "b": [2.0]}, "x")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert len(RUNS) >= 5


@pytest.mark.parametrize("series", [{}, {"a": [1.0], "b": [1.0, 2.0]}])
def test_series_of_different_lengths_are_refused(series: dict[str, list[float]]) -> None:
    """Bug: a shorter series is drawn over the wrong completions."""
    with pytest.raises(ValueError, match="one value for each completion"):
        completion_bars(series, "x")
