"""pyproject.toml, constraints.txt, environment.yml and the Makefile install one and the same: what is asked for in one
of them is there in the others, and every version is fixed in one place.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def asked_for() -> dict[str, Requirement]:
    """Every direct dependency, those of extras too."""
    lines = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): one for one in found if one.name != PROJECT["name"]}


def fixed() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    wrong = [line for line in pinned if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.]+", line)]
    assert wrong == [], "constraints.txt holds exact versions alone"
    versions = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in pinned)}
    assert len(versions) == len(pinned), "a package twice"
    return versions


def test_every_dependency_has_one_exact_version_that_fits() -> None:
    asked, versions = asked_for(), fixed()
    assert len(asked) > 20
    for name, requirement in asked.items():
        assert name in versions, f"{name} is not in constraints.txt; install it, then `make lock`"
        assert requirement.specifier.contains(versions[name], prereleases=True), f"{requirement}, but {versions[name]}"
        # A lower bound says what the code needs; the exact version is the constraint's, and stubs have no bound.
        policy = {one.operator for one in requirement.specifier}
        assert policy <= {">="}, f"{requirement}: exact versions belong into constraints.txt"


def test_conda_installs_what_make_installs() -> None:
    """environment.yml names no package of its own: all come from pyproject.toml, at constraints.txt's versions."""
    python, pip, inner = ENVIRONMENT["dependencies"]
    assert pip == "pip"
    constraint, editable = inner["pip"]
    assert constraint == "--constraint constraints.txt"
    installed = re.fullmatch(r"--editable \.\[([\w,]+)\]", editable)
    assert installed
    reached = set(installed[1].split(","))
    for line in (line for extra in reached.copy() for line in EXTRAS[extra]):  # `dev` asks for others
        reached |= Requirement(line).extras if Requirement(line).name == PROJECT["name"] else set()
    assert reached == set(EXTRAS), "an extra that conda's environment has not"
    version = python.removeprefix("python=")
    assert PROJECT["requires-python"] == f">={version}"
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert tools["mypy"]["python_version"] == version
    assert tools["ruff"]["target-version"] == f"py{version.replace('.', '')}"
    assert f"Python >= {version}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["Makefile", ".ci/run", "environment.yml"])
def test_nothing_is_installed_without_the_constraints(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if re.search(r"pip3? install|--editable", line)]
    assert lines or name == ".ci/run"
    assert all("--constraint constraints.txt" in line or "--constraint constraints.txt" in text for line in lines)
    assert not re.search(r"pip3? install(?!.*--constraint constraints\.txt)", text)


def test_the_makefile_asks_for_extras_that_there_are() -> None:
    asked = re.findall(r"--editable '?\.\[([\w,]+)\]", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert asked
    assert {extra for group in asked for extra in group.split(",")} <= set(EXTRAS)
