"""Figures of one call: heights, places, colours and legends are the data's."""

import numpy as np
import pytest
import torch

from minirft.show.plots import bars, heatmap, histogram, lines
from minirft.show.style import RUNS


def legend(figure) -> list[str]:
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_every_bar_has_its_value_its_place_and_its_series_colour() -> None:
    """Bug: series interleaved wrongly, so that o2's value stands over o1."""
    figure = bars({"": {"before": [0.1, 0.2, 0.3], "after": torch.tensor([0.4, 0.5, 0.6])}})
    drawn = figure.axes[0].patches
    assert [bar.get_height() for bar in drawn] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    centres = [bar.get_x() + bar.get_width() / 2 for bar in drawn]
    assert [round(centre) for centre in centres] == [0, 1, 2, 0, 1, 2]
    assert centres[0] < centres[3] < 0.5 < centres[1]
    assert len({bar.get_facecolor() for bar in drawn[:3]}) == 1 and drawn[0].get_facecolor() != drawn[3].get_facecolor()
    assert legend(figure) == ["before", "after"]


def test_numbers_are_written_on_one_or_two_series_only() -> None:
    """Bug: the numbers of three series overlap."""
    few, many = ({"": {name: [1.0, -0.25] for name in names}} for names in ("ab", "abc"))
    written = [text.get_text() for text in bars(few, form="{:+.2f}").axes[0].texts]
    assert written == ["+1.00", "-0.25"] * 2
    assert not bars(many).axes[0].texts


def test_series_of_different_lengths_are_refused() -> None:
    """Bug: a shorter series is drawn over the wrong completions."""
    with pytest.raises(ValueError):
        bars({"": {"a": [1.0], "b": [1.0, 2.0]}})


def test_stacked_bars_stand_on_each_other_and_named_bars_have_their_colours() -> None:
    """Bug: every part of a stack starts at 0, or a colour falls on the next bar."""
    stack = bars({"": {"a": [1, 2], "b": [3, 4], "c": [1, 1]}}, ["x", "y"], stacked=True).axes[0].patches
    assert [bar.get_y() for bar in stack] == [0, 0, 1, 2, 4, 6]
    row = bars({"": {"x": 1.0, "y": 2.0}}, horizontal=True, colours={"y": "#ff0000"}).axes[0]
    assert [bar.get_width() for bar in row.patches] == [1, 2]
    assert row.patches[1].get_facecolor() == (1, 0, 0, 1) != row.patches[0].get_facecolor()
    assert row.get_yticklabels()[1].get_text() == "y"


def test_an_interval_spans_its_bounds() -> None:
    """Bug: bounds taken for half widths."""
    axes = bars({"": {"a": [1.0, 2.0]}}, intervals={"a": ([0.5, 1.8], [3.0, 2.1])}).axes[0]
    (whiskers,) = (line.get_segments() for line in axes.collections)
    assert np.allclose([segment[:, 1] for segment in whiskers], [[0.5, 3.0], [1.8, 2.1]])


def test_a_name_has_one_colour_in_all_panels_and_its_guide_has_it_too() -> None:
    """Bug: the second panel starts the palette anew, so that one legend lies about it."""
    figure = lines({"left": {"a": [1, 2], "b": [2, 1]}, "right": {"b": [0, 1]}}, across={"b": 1.5}, at={"end": 1})
    left, right = (axes.lines for axes in figure.axes)
    assert left[1].get_color() == right[0].get_color() == right[1].get_color() == RUNS[1]
    assert legend(figure) == ["a", "b", "end"]


def test_x_is_shared_or_a_curves_own_and_a_scale_keeps_the_ticks() -> None:
    """Bug: a curve of its own places is drawn over those of the others; a log scale set last forgets the ticks."""
    shared, own = (
        lines(
            {"": {"a": [1, 2], "b": ([5, 6, 7], [1, 2, 3])}}, [10, 20], style={"b": "o"}, xticks=(5, 10), xscale="log"
        )
        .axes[0]
        .lines
    )
    assert list(shared.get_xdata()) == [10, 20] and list(own.get_xdata()) == [5, 6, 7]
    assert own.get_linestyle() == "None" and list(own.axes.get_xticks()) == [5, 10]


def test_a_matrix_leaves_nan_blank_and_a_histogram_counts_all() -> None:
    """Bug: padding coloured as a small number; a value on the last bound lost."""
    axes = heatmap({"": [[0.25, np.nan]]}, ["o1"], form="{:.1f}").axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.2"] and axes.images[0].get_array().mask.tolist() == [
        [False, True]
    ]
    assert sum(bar.get_height() for bar in histogram({"": [0, 0.5, 1]}, [0, 0.5, 1]).axes[0].patches) == 3
