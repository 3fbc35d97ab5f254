"""Data: the readers turn pictures and annotations into samples, and `feed` chooses the samples of each step."""

from typing import TYPE_CHECKING

from minirft import lazily

if TYPE_CHECKING:
    from minirft.data.feed import Feed, cycle, first_samples, held_out, subset, training_feed, training_set, validation
    from minirft.data.findings import Bad, settle, write_bad_samples, write_whole
    from minirft.data.questions import question
    from minirft.data.readers import question_of
    from minirft.data.reasonseg import masks
    from minirft.data.screening import Screening, check_all
    from minirft.data.settings import FAMILY, DataConfig, Rule, check, evaluation_data
    from minirft.data.shots import is_present, k_shot_of_stream, write_split
    from minirft.data.summary import summarise, warnings
    from minirft.data.tables import category_names
    from minirft.samples import step_seed

__getattr__, __all__ = lazily(__name__)
