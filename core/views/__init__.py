"""The queries behind the dashboard's pages and the notebooks: a run directory in, plain arrays and tuples out.

Reading order, along the data flow: roles (a model's name -> what it is) -> catalogue (which runs and models there are)
-> reading, table (one task's examples and outputs, joined by id) -> derived (columns computed from them) -> filters,
paging (a predicate, its URL, its rows) -> counts -> cohorts, transfer, distances, ensembles, gradients, reliability
(one question each) -> results, dynamics, logs (what training wrote).

Everything only reads. No torch, no streamlit, no plotly: a page draws what it gets from here, and a notebook gets the
same. Nothing is cached outside the objects that are returned; `table.fingerprint` is the key for those who do.

A *voice* is whoever says something about an example: "teacher" (the ensemble), a student variant ("kd", "hard", ...:
the mean of its seeds' probabilities), or the name of a model.

Shapes here: N examples, C classes, M members of the ensemble, S seeds, E epochs. Logarithms are natural: nats.
"""


class NotDefined(ValueError):  # noqa: N818 (it is no error of anybody: a page shows its sentence in place of a figure)
    """A quantity that this task or run does not have, such as wrong classes where there are two. The message is a
    sentence for the reader; a page shows it instead of the figure."""
