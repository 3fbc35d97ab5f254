"""Show: figures, widgets and the report.  Everything here takes plain data and contains no training code."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.show.anatomy import attention_pattern, memory_bars, patch_order, visible
    from minirft.show.cells import Levels, answers_by_method, answers_of, calibration, learning_choice, levels_of
    from minirft.show.charts import curves, metric_bars
    from minirft.show.dashboard import Dashboard, Probe
    from minirft.show.knowledge import knowledge_map
    from minirft.show.lab import RewardLab, red_team_bars
    from minirft.show.pictures import Group, before_after, boxes_of, draw_boxes, drawing, group_panel, mark, picture_row
    from minirft.show.play import live
    from minirft.show.play_advantages import AdvantagePlayground
    from minirft.show.play_boxes import BoxPlayground
    from minirft.show.play_confidence import ConfidenceExplorer
    from minirft.show.play_kl import KLExplorer
    from minirft.show.play_ratio import ClipExplorer
    from minirft.show.plots import bars, heatmap, histogram, lines
    from minirft.show.replication import METHODS, Line, differences, method_dots, name_of, of_paper, shot_curves
    from minirft.show.report import HEADLINE, Moment, Replay, ReportData, intervals_apart, write_report
    from minirft.show.rescoring import BEHAVIOURS, Behaviour, average, pushes, red_team, rescore, reversed_pairs
    from minirft.show.rollouts import Record, RolloutBrowser
    from minirft.show.style import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION, png
    from minirft.show.tokens import token_rows

__getattr__, __all__ = lazily(__name__)
