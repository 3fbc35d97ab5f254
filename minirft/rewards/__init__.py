"""A reward parses a completion's text, computes named parts from the parsed answer, and adds them to one score.

This room also holds the boxes and frames of the answers, the paper's prompts, the released code's reading, and the red
team that attacks a reward.
"""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.rewards import boxes, official, prompts
    from minirft.rewards.answers import (
        Answer,
        Detections,
        ParseFailure,
        extract,
        is_well_formed,
        normalise,
        parse,
        parse_detection,
        parse_solution,
        true_boxes,
    )
    from minirft.rewards.boxes import MODEL, Array, convert, pixels
    from minirft.rewards.detection import (
        CONFIDENCE_RULES,
        PAPER,
        STRICT,
        brier_score,
        giou,
        iou,
        iou_score,
        linear_score,
        match_greedy,
        match_hungarian,
        matched_iou,
        shifted_score,
    )
    from minirft.rewards.frames import boxes_anywhere, check_frames, displayed_size
    from minirft.rewards.own import OwnFunction, OwnReward, Scorer, fingerprint, is_own, load_function, reward_for
    from minirft.rewards.prompts import detection_solution, grounding_solution, label_solution
    from minirft.rewards.readings import Reward, RewardFn, Score, Variant, format_reward, reading
    from minirft.rewards.redteam import SOLUTIONS, THOUGHT, audit, blind, edits
    from minirft.rewards.trainers import from_trl, to_trl, to_verl

__getattr__, __all__ = lazily(__name__)
