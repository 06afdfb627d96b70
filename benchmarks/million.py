"""How long the server takes for each page of a run with a million examples, and how much memory.

    python -m benchmarks.million FOLDER [--rows 1000000]

FOLDER is made if it is not there: one task of three classes, three multi-task models and three teachers, their
ensemble, two students. The times are of the queries behind a page, without the browser and Streamlit; "first" reads
files and fills the table's own memory, "warm" is the best of three after that. On a shared machine they only bound.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from core.plots.densities import density_scatter
from core.store import Run
from core.views.calibration import data_map  # noqa: F401
