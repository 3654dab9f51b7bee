"""Batches that do not fit into memory are drawn in smaller portions, and that is said."""

from __future__ import annotations

import json

import pytest
import torch
from eval_double import Double, draw, place, request

from eval import records


@pytest.fixture
def folder(tmp_path):
    return place(tmp_path)


SHORT = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "driver": RuntimeError("CUDA driver error: out of memory"),
    "late": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported late."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "cudnn": RuntimeError("GET was unable to find an engine to execute this computation"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 17 GB). Tried to allocate 2 GB"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
    ),
    "python": MemoryError(),
}


def short_of_memory(fits: int, error: Exception):
    def fail(batch, latents, images):
        if len(batch) > fits:
            raise error

    return fail


@pytest.mark.parametrize("error", SHORT.values(), ids=SHORT)
def test_the_batch_halves_until_it_fits_and_says_so(folder, capsys, error):
    outcome, double = draw(request(folder), Double(short_of_memory(1, error)))
    assert outcome.drawn == 27
    assert [len(batch) for batch in double.batches[:4]] == [4, 2, 1, 1]
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("note: ")]
    assert lines == [
        "note: 4 images at once do not fit into memory; going on with 2",
        "note: 2 images at once do not fit into memory; going on with 1",
    ]
    assert records.costs(outcome.folder)["ddim@w7.5"]["at_once"] == [1]
    assert json.loads((outcome.folder / "config.json").read_text())["batch"] == 4
    assert draw(request(folder))[0].drawn == 0  # a complete folder, whatever was drawn together


def test_an_error_that_a_lack_of_memory_caused_counts(folder):
    def fail(batch, latents, images):
        if len(batch) > 2:
            raise ValueError("the region's line 3 failed") from SHORT["mps"]

    assert draw(request(folder), Double(fail))[0].drawn == 27


def test_when_nothing_fits_it_is_one_line(folder):
    with pytest.raises(ValueError, match=r"not even one image .* --dtype float16"):
        draw(request(folder), Double(short_of_memory(0, SHORT["cpu"])))


def test_other_errors_are_not_taken_for_it(folder):
    with pytest.raises(RuntimeError, match="shapes"):
        draw(request(folder), Double(short_of_memory(0, RuntimeError("shapes do not match"))))
