"""Same config and seed, same files, whatever the number of processes and of evaluations; another seed of one member
changes that member and what depends on it, and no other file.

Elsewhere: resumed runs (test_resume, test_torture), workers that fail (test_pipeline), streams (test_device).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Finished, changed, copy_of, go, keys, models_of, results, tiny

from core.store import Run

NO_EVALUATIONS = [f"{stage}.eval_every_epochs=0" for stage in ("multitask", "finetune", "distill")]


def test_workers_and_evaluations_change_no_byte(tmp_path: Path, smoke: Finished) -> None:
    run = go(Run(tmp_path / "run"), tiny("runtime.workers=2", *NO_EVALUATIONS)).run
    before, after = (results(one.run if isinstance(one, Finished) else one) for one in (smoke, run))
    assert "selection" in (smoke.run.path / "log.jsonl").read_text(encoding="utf-8")
    assert '"selection": {' not in (run.path / "log.jsonl").read_text(encoding="utf-8")  # there were none, indeed
    assert changed(before, after) == set()


@pytest.mark.parametrize("is_teacher", [True, False], ids=["a member that teaches", "one that was not chosen"])
def test_another_seed_of_one_member_changes_what_depends_on_it(
    is_teacher: bool, smoke: Finished, tmp_path: Path
) -> None:
    chosen = smoke.manifest["jobs"]["select"]["chosen"]
    member = chosen[0] if is_teacher else ({"mt-1", "mt-2", "mt-3"} - set(chosen)).pop()
    entries = [f"dropout: 0.{i}" + (", seed: 9" if member == f"mt-{i}" else "") for i in (1, 2, 3)]
    copied = copy_of(smoke, tmp_path)
    pool = f"multitask.pool=[{', '.join('{' + entry + '}' for entry in entries)}]"
    done = go(copied, tiny(pool), update=True)
    before, after = keys(smoke.manifest), keys(done.manifest)
    other_keys = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert member in other_keys
    assert not {"prepare", "st-hard-s0", "st-hard-s1", *({"mt-1", "mt-2", "mt-3"} - {member})} & other_keys
    different = models_of(changed(results(smoke.run), results(copied)))
    assert member in different
    # Files have changed where a key has, and nowhere else; an ensemble's files are those of the job `ensemble`.
    assert {"ensemble" if name.startswith("ens-") else name for name in different} <= other_keys
    same_choice = done.manifest["jobs"]["select"]["chosen"] == chosen
    if same_choice:
        assert any(name.startswith("st-kd") for name in different) == is_teacher
