"""The paper's experiments: the same comparisons on the tiny world and on real data, with intervals.

    settings    training data, validation and tests of each experiment, from `experiments.toml`
    cells       one cell: a method, a number of shots and a seed, trained and tested
    board       all cells of an experiment: runs the missing ones in parallel and stores them in one file
    statistics  means over seeds, bootstrap over seeds and questions, paired differences
    bases       the starting points of training: the embedded model, and four with other habits
    summary     the file of an experiment, tiny or real, as a table of means and differences
    real        the shipped configs on real data: parts, tests, and the places of their files
    real_cells  their cells: runs and answers on disk, which continue after a stop; cost, and the paper's numbers
    pretrain    the recipe of the embedded checkpoint; `gate` checks it and writes its model card

The rules of the comparison.  All methods start from the same weights, train the same weights, and see the same pictures
in the same order and batches.  Each method chooses among equally many learning rates and lengths of training, by a
validation set of the training categories with a seed that no test uses.  Test questions are used for nothing else.
"""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.experiments.bases import RECIPES, fresh_policy
    from minirft.experiments.board import Board, choose, run_experiment
    from minirft.experiments.cells import Key, run_cell, training
    from minirft.experiments.gate import FORCED, answers
    from minirft.experiments.pretrain import PretrainConfig, main
    from minirft.experiments.real import missing, names_of
    from minirft.experiments.real_cells import Study, outlook, outlook_table, paper_number, run_study
    from minirft.experiments.settings import EXPERIMENTS, STOPS, config, find
    from minirft.experiments.statistics import difference, prediction_interval
    from minirft.experiments.summary import lines, measured, table

__getattr__, __all__ = lazily(__name__)
