"""What can go wrong while a run draws: kills, full disks, damage, two at once.

After each of them the same command leaves the bytes of a run to which nothing happened, and
nothing that is damaged or unfinished counts as done.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
from eval_double import Double, contents, draw, fork, place, request, spoil, wait_for
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from eval import lock, records
from eval.__main__ import main
from eval.images import is_intact
from eval.run import run


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


@pytest.fixture
def whole(folder):
    """What an undisturbed run leaves."""
    return contents(draw(request(folder, out=folder / "whole"), Double(spoil))[0].folder)


def intact(out: Path) -> bool:
    return all(is_intact(path.read_bytes()) for path in out.rglob("*.png"))


# --- SIGKILL -------------------------------------------------------------------------------------


def killed_run(folder: Path, out: Path, chance: random.Random) -> None:
    """Draw in a process that is killed before, in the middle of, or after a random file."""
    write, stage = Path.write_bytes, chance.choice(["before", "within", "after"])
    left = chance.randrange(45)

    def fatal(path: Path, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            if stage != "before":
                write(path, data[: chance.randrange(len(data))] if stage == "within" else data)
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, data)

    def work():
        Path.write_bytes = fatal
        draw(request(folder, out=out), Double(spoil))

    assert wait_for(fork(work)) in (0, -signal.SIGKILL)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_is_killed_at_random_points_ends_with_the_same_bytes(folder, whole, seed):
    kill_and_resume(folder, whole, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 23))
def test_twenty_more_kills(folder, whole, seed):
    kill_and_resume(folder, whole, seed)


def test_a_kill_loses_the_batch_in_drawing_and_at_most_the_one_before(folder, whole):
    out, drawn = folder / "killed", []

    def die_in_the_fifth(batch, latents, images):
        drawn.append(batch)
        if len(drawn) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        spoil(batch, latents, images)

    pid = fork(lambda: draw(request(folder, out=out), Double(die_in_the_fifth)))
    assert wait_for(pid) == -signal.SIGKILL
    _, double = draw(request(folder, out=out), Double(spoil))
    assert len(double.batches) in (5, 6)  # of nine
    assert contents(out) == whole


def kill_and_resume(folder: Path, whole: dict[str, bytes], seed: int) -> None:
    chance, out = random.Random(seed), folder / "killed"
    for _ in range(1 + seed % 3):
        killed_run(folder, out, chance)
        assert intact(out)
    draw(request(folder, out=out), Double(spoil))
    assert contents(out) == whole


# --- a full disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("room", [0, 1, 2, 9, 20])
def test_a_full_disk_is_one_line_and_nothing_half_written(folder, whole, room, capsys, monkeypatch):
    write, left = Path.write_bytes, room

    def fill(path: Path, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, data)

    monkeypatch.setattr(run, "__defaults__", (lambda *_: Double(spoil),))
    words = ["run", "--model", str(folder / "tiny"), "--prompts", str(folder / "prompts.txt")]
    words += ["--arms", "ddim,ddim_cfg++@0.6", "--scales", "3,7.5", "--seeds", "0,1,5"]
    words += ["--nfe", "4", "--batch", "4", "--device", "cpu", "--no-score"]
    words += ["--out", str(folder / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fill)
        assert main(words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("run: ")]
    assert line.startswith("error: cannot write ") and "No space left on device" in line
    assert intact(folder / "run") and not list((folder / "run").rglob("*.tmp"))
    assert main(words) == 0
    assert contents(folder / "run") == whole


# --- damage --------------------------------------------------------------------------------------


def resize(path: Path) -> None:
    with Image.open(path) as image:
        chunks = PngInfo()
        for name, text in image.text.items():
            chunks.add_text(name, text)
        image.resize((8, 8)).save(path, pnginfo=chunks)


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])


@pytest.mark.parametrize(
    "damage",
    [
        resize,
        flip,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-12]),
        lambda path: path.write_bytes((path.parent / "000_0.png").read_bytes()),
    ],
    ids=["other size", "a bit", "gone", "empty", "without its end", "another image"],
)
def test_damaged_images_are_drawn_again_with_their_batch(folder, whole, damage):
    draw(request(folder), Double(spoil))
    damage(folder / "run" / "images" / "ddim@w7.5" / "002_5.png")
    again, double = draw(request(folder), Double(spoil))
    assert again.drawn == 1 and len(double.batches) == 1  # the last batch holds one image
    assert contents(folder / "run") == whole


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"001_5.png": 3}', "\ufffd"])
def test_damaged_reasons_are_found_again(folder, whole, damage):
    draw(request(folder), Double(spoil))
    part = folder / "run" / "invalid" / "ddim@w3" / "0001.json"
    part.write_text(damage)
    with pytest.raises(ValueError, match=r"0001.json .*; delete it and run again"):
        records.invalid(folder / "run")
    again, _ = draw(request(folder), Double(spoil))
    assert again.drawn == 4 and contents(folder / "run") == whole


@pytest.mark.parametrize("name", ["config.json", "env.json", "timing.json"])
def test_other_damaged_files_stop_the_run_in_one_line(folder, name):
    draw(request(folder))
    (folder / "run" / name).write_text('{"model": ')
    remedy = "delete the folder .*run and run again" if name == "config.json" else "delete it and"
    with pytest.raises(ValueError, match=rf"{name} is damaged .*; {remedy}") as error:
        draw(request(folder))
    assert "\n" not in str(error.value)


# --- two runs into one folder --------------------------------------------------------------------


def slow_run(folder: Path, begun: Path, go_on: Path) -> int:
    """Start a run in a process that holds on in its first batch until `go_on` exists."""

    def hold(batch, latents, images):
        begun.touch()
        while not go_on.exists():
            time.sleep(0.01)
        spoil(batch, latents, images)

    pid = fork(lambda: draw(request(folder), Double(hold)))
    while not begun.exists():
        time.sleep(0.01)
    return pid


def test_a_second_run_into_a_folder_is_refused_and_harms_nothing(folder, whole):
    go_on = folder / "go"
    pid = slow_run(folder, folder / "begun", go_on)
    with pytest.raises(ValueError, match=rf"is in use by the run of process {pid} on .*another"):
        draw(request(folder))
    assert not list((folder / "run").rglob("*.png"))
    go_on.touch()
    assert wait_for(pid) == 0
    assert draw(request(folder), Double(spoil))[0].drawn == 0
    assert contents(folder / "run") == whole


def test_the_lock_of_a_dead_process_is_taken_over(folder, whole):
    pid = slow_run(folder, folder / "begun", folder / "never")
    os.kill(pid, signal.SIGKILL)
    wait_for(pid)
    outcome, _ = draw(request(folder), Double(spoil))
    assert f"note: the run of process {pid} on " in outcome.notes[0]
    assert "stopped without finishing" in outcome.notes[0]
    assert draw(request(folder), Double(spoil))[0].notes == []
    assert contents(folder / "run") == whole


def test_a_file_system_without_locks_is_named(folder, monkeypatch):
    def none(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", none)
    outcome, _ = draw(request(folder))
    assert outcome.drawn == 27 and "has no locks" in outcome.notes[0]
