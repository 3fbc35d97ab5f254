"""The paper's experiments: the same comparison, re-enacted on the tiny world with honest statistics.

    settings    what each experiment trains on, chooses by and is tested on
    cells       one cell: a method, a number of shots, a seed; trained and tested from nothing
    board       all cells of an experiment: what is left, side by side on free cores, into one file
    statistics  means over seeds, bootstrap over seeds and questions, paired differences
    bases       what training starts from: the embedded model, and three used to something else
    summary     an experiment's file as a table, the paper's numbers beside
    real        the shipped configs on real data: what is trained and tested, read from where
    real_cells  their cells: a run and its answers on disk, gone on with after a stop
    real_report what they will cost, and their numbers beside the paper's
    pretrain    the recipe of the embedded checkpoint; `gate` says whether it is good enough, `card` writes it down

The rules of the comparison.  All methods start at the same weights, train the same weights, see the same pictures in
the same order and batches.  Each may choose among as many learning rates and lengths of training, by a validation set
of the training categories and a seed that no test uses.  The test questions were never used for choosing anything.
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
    from minirft.experiments.real_cells import METRIC, Study, run_study
    from minirft.experiments.real_report import outlook, outlook_table, paper_number, real_lines, real_table
    from minirft.experiments.settings import EXPERIMENTS, HEADLINE, STOPS, config, find
    from minirft.experiments.statistics import difference, prediction_interval
    from minirft.experiments.summary import lines, measured, table

__getattr__, __all__ = lazily(__name__)
