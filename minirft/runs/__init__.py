"""Runs: this room holds a run on disk (settings, log, checkpoints, answers, exports) and the loop that drives it."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.runs import with_trl
    from minirft.runs.asking import Answered, Asking, ask
    from minirft.runs.config import SHIPPED, GRPOConfig, find_config, load_config
    from minirft.runs.exports import export_run
    from minirft.runs.folder import (
        anchored,
        is_merged,
        load_policy,
        load_run_policy,
        load_weights,
        open_run,
        run_config,
        source_policy,
    )
    from minirft.runs.history import History, read_history
    from minirft.runs.log import METRICS, library_version, plain, provenance, read_log, write_rows
    from minirft.runs.loop import generate, judged, run_steps
    from minirft.runs.predictions import default_file, predict, settings, write_coco_results
    from minirft.runs.step import (
        Row,
        apply_gradients,
        learning_rate,
        make_optimiser,
        mismatch,
        optimiser_step,
        rollout_metrics,
        times,
        written,
    )
    from minirft.runs.supervised import given_rollout, sft, sft_step
    from minirft.runs.toml import differences, from_table, read_toml
    from minirft.runs.tracking import tracked
    from minirft.runs.trl_prompt import PictureProcessor
    from minirft.runs.two_stages import NO, answers_in_two_stages, presence_question
    from minirft.runs.verl import export_for_verl
    from minirft.runs.watches import frame_warning
    from minirft.runs.with_trl import is_main, train_with_trl, trl_settings

__getattr__, __all__ = lazily(__name__)
