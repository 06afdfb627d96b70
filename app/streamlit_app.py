"""The dashboard's entry: `make app`, or `streamlit run app/streamlit_app.py -- --runs FOLDER`.

It draws the title's row and hands over to the page. Only try_it imports torch, and not before it is asked.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import streamlit as st

# `streamlit run` puts this folder on the path; pages import `app` and `core` from the one above.
if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.insert(0, root)

from app import show, state

LOG = logging.getLogger("darkroom")
FAULT = "This page met an error of its own"
# File, title, icon, question. The order is that of looking: what is there, which examples, why.
PAGES = [
    ("overview", "Overview", "monitoring", "Which runs are there, how far are they, and does the student learn?"),
    ("explore", "Explore", "filter_alt", "Which examples? Filters, a density of all rows, and their table."),
    ("example", "Example", "article", "Who said what about one example, and where did the student land?"),
    ("loss_lab", "Loss lab", "science", "What do the gold label and the teachers each ask of the student?"),
    ("ensemble", "Ensemble", "hub", "Who agrees with whom, and whom does the student follow?"),
    ("dark_knowledge", "Dark knowledge", "dark_mode", "Which part of what the teachers say does the student learn?"),
    ("calibration", "Calibration", "target", "Is it as sure as it is right, and whose doubts does it inherit?"),
    ("try_it", "Try it", "edit_note", "What do teachers and students say about your own text?"),
    ("runs", "Runs", "list_alt", "How did a run go, and what sets two runs apart?"),
    ("experiments", "Experiments", "table_chart", "What holds over several draws of the data and many students?"),
]

# The emoji is the favicon: an icon of a page would be fetched from outside.
HERE = Path(__file__).resolve().parent
st.set_page_config(page_title="Darkroom", page_icon="🎞️", layout="wide")
pages = [
    st.Page(file, title=title, icon=f":material/{icon}:", help=question, default=name == "overview")
    for name, title, icon, question in PAGES
    if (file := HERE / "app_pages" / f"{name}.py").exists()
]
# Streamlit's own row of pages drops the parameters, and writing them back is a second step of the browser's history:
# Back would have to be pressed twice. These links open a page with the run, the task and the split.
page = st.navigation(pages, position="hidden")
row = st.empty()


def navigation(place: dict[str, str]) -> None:
    with row.container(horizontal=True, gap="xxsmall"):
        for target in pages:
            query = {key: text for key, text in place.items() if key == "run" or target.title != "Runs"}
            st.page_link(target, query_params=query or None)


navigation(place := state.place())
question = next(question for _, title, _, question in PAGES if title == page.title)
header = st.container(horizontal=True, vertical_alignment="bottom")
with header.container(width="stretch", gap=None):
    st.title(page.title, anchor=False)
    st.caption(question)
# Runs are about no task and no split: one selector.
state.begin(header.container(horizontal=True, width=190 if page.title in ("Runs", "Experiments") else 560, gap="small"))
try:
    page.run()
except Exception:
    # A mistake of Darkroom's own, or a file that vanished under the page. Streamlit's own message speaks of its cloud.
    LOG.exception("page %s of %s", page.title, dict(st.query_params.items()))
    show.empty(FAULT, "What happened stands in the terminal in which it was started. Reload the page, or choose "
               "another run or task above.", icon=":material/bug_report:")  # fmt: skip
finally:
    state.finish()
    if state.place() != place:  # looked up by the page: the first visit
        navigation(state.place())
