"""What the files around the code promise: scripts, prompt files, pinned versions, licence."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from safetensors import safe_open

from eval.models import MODELS
from standins import make_prompts
from standins.make_prompts import FILES
from standins.scenes import COLOURS, HELD_OUT, SHAPES, parse

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ["run_sd15.sh", "run_sd20.sh", "run_sdxl.sh"]
SCRIPTS = ["run_tests.sh", "run_demo.sh", *BENCHMARKS, "scripts/run_benchmark.sh"]
SCRIPTS += ["scripts/env.sh", ".ci/run"]
SKIPPED = {".git", ".venv", "build", "runs", "dist"}
TEXT = {".py", ".sh", ".md", ".toml", ".txt", ".cff", ".json", ".html", ".csv", ".yml", ".yaml"}
# Written in pieces so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(
    "|".join(("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/"))
)


def lines(name: str) -> list[str]:
    return (ROOT / "prompts" / name).read_text(encoding="utf-8").splitlines()


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the root with this interpreter, no GPU and no network."""
    env = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    env |= {"HF_HUB_OFFLINE": "1"} | variables
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


# --- scripts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_valid_bash(script):
    result = run(["bash", "-n", script])
    assert result.returncode == 0, result.stderr


def test_ci_runs_the_tests():
    assert "run_tests.sh" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize(
    ("script", "model"),
    [*((script, None) for script in BENCHMARKS), ("run_sd15.sh", "/no/such/folder")],
)
def test_benchmark_without_gpu_and_weights_says_so_and_exits_with_3(script, model):
    result = run(["bash", script], **({"MODEL": model} if model else {}))
    assert result.returncode == 3, result.stderr
    said = result.stderr.splitlines()
    assert len(said) == 3 and result.stdout == "", result.stderr
    assert said[0].startswith(f"{script}: missing a CUDA GPU") and "run_demo.sh" in said[0]
    own = MODELS[script.removeprefix("run_").removesuffix(".sh")]
    assert f"the weights of {model or own};" in said[0]
    assert said[1].startswith("  GPU: ") and said[2].startswith("  weights: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SEEDS", "0"), ("SEEDS", "many"), ("BATCH", "-1"), ("FID_REFERENCE", "/no/such.npz")],
)
def test_benchmark_refuses_a_wrong_setting_in_one_line(variable, value):
    result = run(["bash", "run_sdxl.sh"], **{variable: value})
    assert result.returncode == 2
    assert result.stderr.startswith(f"{variable}={value}: ") and result.stderr.count("\n") == 1


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with an interpreter at bin/python that prints what it is asked to run."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    return tmp_path


def test_relative_paths_of_the_demo_are_of_where_it_was_started(elsewhere):
    env = os.environ | {"PYTHON": "bin/python", "OUT": "mine/demo"}
    command = ["bash", str(ROOT / "run_demo.sh")]
    result = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    asked = next(line for line in result.stdout.splitlines() if line.startswith("-m eval run "))
    assert asked.endswith(f" --out {elsewhere}/mine/demo")


@pytest.mark.parametrize("name", ["no/python", "/no/python", "python-that-is-not-there"])
def test_a_missing_interpreter_is_called_missing(name):
    result = run(["bash", "run_demo.sh"], PYTHON=name)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"[env] PYTHON={name}: no such interpreter; give Python 3.11")


def test_the_body_of_the_benchmarks_wants_its_arguments():
    result = run(["bash", "scripts/run_benchmark.sh"])
    assert result.returncode == 2 and result.stderr.startswith("usage: ")


# --- packaging -----------------------------------------------------------------------------------


def exact_versions() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in pins)


def test_constraints_are_exact_and_hold_no_address():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    for line in text.splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9][a-z0-9-]*==[0-9][0-9a-z.]*", line), line


def test_constraints_cover_every_declared_requirement():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {
        re.split(r"[<>=!~ ;\[]", text)[0].lower().replace("_", "-")
        for group in groups
        for text in group
    }
    assert names <= exact_versions().keys()


def test_requirements_lists_what_is_missing(tmp_path):
    result = run([sys.executable, "scripts/requirements.py", "eval", "--write", str(tmp_path)])
    assert result.returncode == bool(result.stdout), result.stderr
    assert "==" in (tmp_path / "constraints.txt").read_text()
    refused = run([sys.executable, "scripts/requirements.py", "evil"])
    assert refused.returncode == 2 and "unknown extra 'evil'; known: eval, dev" in refused.stderr


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({}, ["torch==2.9", "pillow==12"]),  # fresh: exactly what the project pins
        ({"torch": "2.9+cu128"}, ["torch==2.9", "pillow==12"]),  # a build of the pinned version
        ({"torch": "2.6"}, ["torch==2.6"]),  # somebody's own: kept, and nothing else is forced
        ({"torch": "2.1"}, ["torch==2.9", "pillow==12"]),  # too old to keep
    ],
)
def test_completing_an_environment_keeps_what_is_good_enough(present, expected, monkeypatch):
    path = ROOT / "scripts" / "requirements.py"
    spec = importlib.util.spec_from_file_location("requirements", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "installed", present.get)
    wanted = ["torch>=2.4", "Pillow>=10"]
    assert module.constraints(wanted, ["torch==2.9", "pillow==12"]) == expected


def test_declared_packages_exist():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [ROOT / name.replace(".", "/") for name in tools["packages"]]
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert all((ROOT / f"{name}.py").is_file() for name in tools["py-modules"])


def test_licence_and_citation():
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert "arXiv:2406.08070" in citation and "arXiv:2211.01095" in citation


def test_no_machine_paths():
    found = []
    for folder, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in SKIPPED and not n.endswith("_cache")]
        for path in (Path(folder) / name for name in files):
            if path.suffix in TEXT and MACHINE_PATH.search(path.read_text(encoding="utf-8")):
                found.append(str(path.relative_to(ROOT)))
    assert not found


# --- prompts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"), [("coco100.txt", 100), *((n, lines) for n, (lines, _) in FILES.items())]
)
def test_prompt_file_has_unique_clean_lines(name, number):
    found = lines(name)
    assert len(found) == number == len({line.lower() for line in found})
    assert all(line and line == line.strip() and line.isascii() for line in found)


def test_coco_captions_have_8_to_20_words():
    assert all(8 <= len(line.split()) <= 20 for line in lines("coco100.txt"))


def test_scene_files_share_no_caption():
    every = [line for name in FILES for line in lines(name)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("count", [2, pytest.param(len(FILES), marks=pytest.mark.slow)])
def test_scene_files_are_what_the_script_writes(count):
    for name, expected in make_prompts.files(count).items():
        assert lines(name) == expected, f"{name}: run python -m standins.make_prompts"


def test_the_largest_scene_file_begins_as_the_script_writes_it():
    *before, name = FILES
    taken = frozenset(caption for other in before for caption in lines(other))
    assert lines(name)[:40] == make_prompts.choose(40, FILES[name][1], taken).captions


def test_the_reference_shows_scenes_that_the_same_rule_chose():
    """FID compares with pictures of the captions' own mix, and of none of the captions."""
    count, start = make_prompts.REFERENCE_SCENES
    scenes = make_prompts.reference_scenes()
    assert len(set(scenes)) == len(scenes) == count
    taken = frozenset(line for name in FILES for line in lines(name))
    assert scenes[:40] == make_prompts.choose(40, start, taken).scenes


@pytest.mark.parametrize("name", FILES)
def test_every_block_of_scenes_has_the_stated_mix(name):
    promises = [parse(line) for line in lines(name)]
    for start in range(0, len(promises), 20):
        block = promises[start : start + 20]
        assert Counter(len(p.pairs) for p in block) == {1: 9, 2: 9, 3: 2}
        assert sum(any(pair in HELD_OUT for pair in p.pairs) for p in block) == 6


@pytest.mark.parametrize("name", ["scenes100.txt", "scenes1000.txt", "scenes8000.txt"])
def test_reported_scenes_are_balanced(name):
    pairs = [pair for line in lines(name) for pair in parse(line).pairs]
    shapes, colours = Counter(s for s, _ in pairs), Counter(c for _, c in pairs)
    for counts, known in ((shapes, SHAPES), (colours, COLOURS)):
        even = len(pairs) / len(known)
        assert set(counts) == set(known)
        assert all(0.75 * even <= n <= 1.25 * even for n in counts.values()), counts
    assert set(pairs) >= HELD_OUT


def test_text_encoders_have_the_names_that_every_version_of_transformers_reads():
    """Version 4 takes random weights where it does not find its names, and goes on."""
    files = sorted((ROOT / "standins").glob("*/text_encoder*/model.safetensors"))
    assert len(files) == 8  # sd15 and sd20 one each, sdxl two, and so those with -web
    for file in files:
        with safe_open(file, "pt") as weights:
            heads = {name.partition(".")[0] for name in weights.keys()}  # noqa: SIM118
        assert heads <= {"text_model", "text_projection"}, file
