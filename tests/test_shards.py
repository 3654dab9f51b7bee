"""Several processes draw into one folder: the same bytes as one process, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from eval_double import Double, contents, draw, fork, place, request, spoil, wait_for

from eval import records
from eval.__main__ import main
from eval.images import is_intact
from eval.models import choose_device
from eval.run import run
from eval.shards import shard, wait

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


def launched(rank: int, world: int, port: int = 29500) -> dict[str, str]:
    """The environment that accelerate gives to a process of one launch."""
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in values.items()}


def start(rank: int, world: int, work) -> int:
    """Run `work` in a process of a launch."""

    def with_environment():
        os.environ.update(launched(rank, world))
        work()

    return fork(with_environment)


def kill_at(write: int) -> None:
    """Let this process kill itself at its so-manieth finished file."""
    rename, left = os.replace, [write]

    def replace(source, target):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = replace


# --- who does what -------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3, 7, 40])
def test_the_parts_cover_every_job_once(world):
    jobs = list(range(27))
    parts = [shard(launched(rank, world)).slice(jobs) for rank in range(world)]
    assert sorted(job for part in parts for job in part) == jobs
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    first = shard(launched(0, world))
    assert sorted(first.others(jobs) + first.slice(jobs)) == jobs


def test_a_process_without_a_launch_is_alone():
    one, other = shard({}), shard({})
    assert (one.rank, one.world) == (0, 1) and one.launch != other.launch


@pytest.mark.parametrize(
    "environ",
    [
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
    ],
)
def test_a_place_that_cannot_be_is_one_line(environ):
    with pytest.raises(ValueError, match=r"RANK must be .* from 0 to WORLD_SIZE - 1"):
        shard(environ)


def test_processes_of_one_launch_know_each_other_and_no_others():
    assert shard(launched(0, 2)).launch == shard(launched(1, 2)).launch
    assert shard(launched(0, 2)).launch != shard(launched(0, 2, port=29501)).launch
    machines = launched(5, 8) | {"MASTER_ADDR": "node0", "LOCAL_WORLD_SIZE": "4"}
    first = launched(0, 8) | {"MASTER_ADDR": "node0", "LOCAL_WORLD_SIZE": "4"}
    assert shard(machines).launch == shard(first).launch


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [choose_device(None, local) for local in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert choose_device("cuda", 1) == "cuda:1" and choose_device(None) == "cuda"
    assert choose_device("cpu", 1) == "cpu"


# --- waiting -------------------------------------------------------------------------------------


def test_waiting_ends_when_all_is_there_and_when_nothing_comes(capsys):
    looks: list[int] = []

    def complete(job: int) -> bool:  # one more job is done at each look
        looks.append(job)
        return job < len(looks) / 4

    assert wait([0, 1, 2], complete, patience=5, poll=0.001) == []
    begin = time.monotonic()
    assert wait([0, 1, 2], lambda job: job == 1, patience=0.05, poll=0.01) == [0, 2]
    assert time.monotonic() - begin < 2
    assert wait([], complete, patience=5) == []


# --- several processes, one folder ---------------------------------------------------------------


def test_three_processes_leave_the_bytes_of_one(folder):
    def part():
        draw(request(folder, out=folder / "shared", patience=30), Double(spoil))

    pids = [start(rank, 3, part) for rank in range(3)]
    assert [wait_for(pid) for pid in pids] == [0, 0, 0]
    whole, _ = draw(request(folder, out=folder / "whole"), Double(spoil))
    assert contents(folder / "shared") == contents(whole.folder)
    assert records.invalid(folder / "shared") == records.invalid(whole.folder)
    costs = records.costs(folder / "shared")
    assert [cost["images"] for cost in costs.values()] == [9, 9, 9]
    assert {p.name for p in (folder / "shared").glob("*-*.json")} == {
        *("timing-1.json", "timing-2.json", "env-1.json", "env-2.json")
    }


def test_a_killed_process_loses_one_batch_and_any_later_run_completes(folder):
    out = folder / "shared"

    def part():
        draw(request(folder, out=out, patience=1), Double(spoil))

    def dies():
        kill_at(6)
        part()

    pids = [start(0, 3, part), start(1, 3, dies), start(2, 3, part)]
    assert [wait_for(pid) for pid in pids] == [0, -signal.SIGKILL, 0]
    assert all(is_intact(p.read_bytes()) for p in out.rglob("*.png"))
    again, double = draw(request(folder, out=out), Double(spoil))
    assert 0 < again.drawn <= 9 and len(double.batches) <= 3  # of its three batches
    whole, _ = draw(request(folder, out=folder / "whole"), Double(spoil))
    assert contents(out) == contents(whole.folder)


def test_the_first_process_says_what_is_missing_and_how_to_complete_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(run, "__defaults__", (lambda *_: Double(),))
    for name, value in launched(0, 2).items():
        monkeypatch.setenv(name, value)
    words = ["run", "--model", str(folder / "tiny"), "--prompts", str(folder / "prompts.txt")]
    words += ["--arms", "ddim", "--scales", "3", "--seeds", "0-3", "--batch", "4", "--nfe", "4"]
    words += ["--no-score", "--out", str(folder / "r")]
    assert main([*words, "--patience", "0.1"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ") and "(ddim@w3: 1 batch)" in err
    assert f"complete it with: python -m eval run --model {folder / 'tiny'}" in err
    for name in launched(0, 2):
        monkeypatch.delenv(name)
    assert main(words) == 0
    assert "4 images drawn, 8 were there" in capsys.readouterr().out


def test_other_processes_do_not_score(folder, capsys, monkeypatch):
    monkeypatch.setattr(run, "__defaults__", (lambda *_: Double(),))
    for name, value in launched(1, 2).items():
        monkeypatch.setenv(name, value)
    words = ["run", "--model", str(folder / "tiny"), "--prompts", str(folder / "prompts.txt")]
    words += ["--arms", "ddim", "--scales", "3", "--seeds", "0-3", "--batch", "4", "--nfe", "4"]
    assert main([*words, "--out", str(folder / "r")]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and "process 1: 4 images drawn, 0 were there" in captured.err
    assert not (folder / "r" / "results.json").exists()


@pytest.mark.slow
def test_accelerate_launches_two_processes_on_a_stand_in(tmp_path):
    words = ["-m", "eval", "run", "--arms", "ddim,exp2m_cfg++", "--scales", "2", "--seeds", "100"]
    words += ["--prompts", "prompts/scenes_dev40.txt", "--limit", "6", "--batch", "2"]
    words += ["--nfe", "3", "--no-score", "--device", "cpu", "--out"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launch += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    launch += ["--dynamo_backend", "no", "--main_process_port", "0"]
    environ = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for command, out in ((launch, "two"), ([sys.executable], "one")):
        done = subprocess.run(
            [*command, *words, str(tmp_path / out)],
            cwd=ROOT,
            env=environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "timing-1.json").exists()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
