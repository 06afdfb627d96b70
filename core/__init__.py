"""Darkroom: multi-task knowledge distillation, from text to a distilled student, example by example.

Read in the order in which data flow; a module imports only modules above it (tests/test_structure.py holds the order).

- **What is asked for**: `core.tasks` (a task is a row), `core.sections`, `core.config` and `core.presets` (one frozen
  model a stage), `core.plan` (jobs and their keys).
- **What is computed from answers**, without torch: `core.calibration`, `core.metrics`, `core.ensemble`,
  `core.combining`, `core.selection`, `core.targets`, `core.comparisons`.
- **The run directory**: `core.store`, `core.files`, `core.locks`, `core.checksums`, `core.status`.
- **What people look at**: `core.views` (queries), `core.plots` (figures), `core.report`.
- **Data and models**: `core.data`, `core.readers`, `core.synthetic` (the embedded suite), `core.tokens`,
  `core.batching`, `core.losses`, `core.heads`, `core.encoder`, `core.model`, `core.train`.
- **The pipeline**: `core.stages`, one file each; `core.pipeline` (order, resume), `core.workers`, `core.cli`.
- **Ways out**: `core.ask` and `core.answering` (own texts), `core.export`, `core.submission`, `core.importing` (in).

`docs/run-directory.md` has every file of a run, `docs/config.md` every field, `docs/commands.md` every command.
"""

__version__ = "0.1.0"
