"""The embedded suite: six tasks over one little world in which P(label | text) is known exactly.

Reading order, along the data flow: lexicon (words and meanings) -> clauses (slots and their text) -> parsing (text
back to slots) -> meaning (positions on scales) -> single, pairs, questions (posteriors) -> oracle (one entrance to
them) -> drawing, edits, spoiling (random sentences and their partners) -> suite (tables).

No torch here: the dashboard asks for posteriors too.
"""

from core.synthetic.lexicon import vocabulary
from core.synthetic.oracle import TASK_NAMES, posterior
from core.synthetic.suite import generate, unlabelled_text

__all__ = ["TASK_NAMES", "generate", "posterior", "unlabelled_text", "vocabulary"]
