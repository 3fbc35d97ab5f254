"""Lessons: shared code of the notebooks: a group of eight completions, predictions, checks of exercises, tables."""

from typing import TYPE_CHECKING

from minirft import lazily
from minirft.engine import quieten_libraries

quieten_libraries()  # before the libraries are imported, so that their advice is not printed in a notebook

if TYPE_CHECKING:
    from minirft.lessons.ask import check, predict, terminal
    from minirft.lessons.group import gdpo_advantages, the_group, the_sample, the_texts
    from minirft.lessons.practice import LAB, Practice, lab_config, lab_rewards
    from minirft.lessons.record import records, token_weights
    from minirft.lessons.tables import by_seed, committed, live_cell, paper_table, results

__getattr__, __all__ = lazily(__name__)
