"""What the notebooks share: one group of eight completions, predict-then-reveal, checks of exercises."""

from minirft.commands.flags import quieten_libraries

quieten_libraries()  # before torch's companions are imported: their advice is no output of a lesson

from minirft.lessons.ask import check, predict  # noqa: E402
from minirft.lessons.group import the_group, the_sample, the_texts  # noqa: E402

__all__ = ["check", "predict", "the_group", "the_sample", "the_texts"]
