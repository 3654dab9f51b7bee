"""Pages of published runs: they follow from results.json, and keep what people wrote."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from synthetic_run import extractor, make_reference, make_run

from eval import report, score
from eval.__main__ import main
from eval.figures import KNOWN, styles
from eval.page import BEGIN, END, page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A reported run; tests only read it."""
    folder = make_run(tmp_path_factory.mktemp("page") / "run")
    make_reference(folder.parent / "reference.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "extractor_for", lambda *_: (extractor(), {}))
        score.score(folder, reference=str(folder.parent / "reference.npz"), bootstrap=40)
    report.report(folder)
    return folder


def test_a_page_says_what_it_is_and_how_it_was_made(run, tmp_path):
    text = page(run, tmp_path / "mine").read_text(encoding="utf-8")
    assert text.index("not SD numbers") < text.index("    python -m eval run") < text.index(BEGIN)
    assert text.index("| sampler |") < text.index("](front.png)") < text.index("<details>")
    assert text.index("| arm |") < text.index("</details>") < text.index(END)
    written = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"results.json", "results.csv", "env.json", "front.png", "grid.png"} <= written
    assert "report.html" not in written
    assert all(f"({name})" in text for name in written - {"README.md"})


def test_a_page_written_again_keeps_what_people_wrote(run, tmp_path):
    out = tmp_path / "mine"
    first = page(run, out).read_text(encoding="utf-8")
    (out / "README.md").write_text(f"# Ours\n\n{first[first.index(BEGIN) :]}\nA last word.\n")
    (out / "results.csv").write_text("stale")
    page(run, out, html=True)
    again = (out / "README.md").read_text(encoding="utf-8")
    assert again.startswith(f"# Ours\n\n{BEGIN}") and again.endswith(f"{END}\n\nA last word.\n")
    assert (out / "results.csv").read_bytes() == (run / "results.csv").read_bytes()
    assert (out / "report.html").read_bytes() == (run / "report.html").read_bytes()
    page(out)
    assert (out / "README.md").read_text(encoding="utf-8") == again


def test_a_page_takes_the_curve_along(run, tmp_path):
    copy = tmp_path / "with a curve"
    shutil.copytree(run, copy)
    for name in ("curve.json", "curve.csv"):
        (copy / name).write_text(f"the {name}")
        os.utime(copy / name, (0, 0))  # the figures were drawn after it
    text = page(copy, tmp_path / "mine").read_text(encoding="utf-8")
    assert "[curve.json](curve.json), [curve.csv](curve.csv)" in text
    assert (tmp_path / "mine" / "curve.csv").read_text() == "the curve.csv"


def test_a_page_follows_its_results(run, tmp_path):
    out = tmp_path / "mine"
    page(run, out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    results["stamp"] = "another model"
    (out / "results.json").write_text(json.dumps(results), encoding="utf-8")
    assert "another model" in page(out).read_text(encoding="utf-8").partition(BEGIN)[2]


@pytest.mark.parametrize("numbers", ["results.json", "curve.json"])
def test_figures_that_are_older_than_their_numbers_are_not_published(run, tmp_path, numbers):
    copy, out = tmp_path / "scored again", tmp_path / "mine"
    shutil.copytree(run, copy)
    page(copy, out)
    (copy / numbers).write_text(
        (run / numbers).read_text(encoding="utf-8") if (run / numbers).is_file() else "{}"
    )
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(
        ValueError, match=r"figures/front\.png is older .*'python -m eval report .*scored again'"
    ):
        page(copy, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (copy / "curve.json").unlink(missing_ok=True)
    report.report(copy)
    page(copy, out, html=True)
    (copy / "config.json").unlink()  # a page, not a run: times say nothing
    os.utime(copy / "results.json")
    page(copy)


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (None, ["--figures", "front,fornt"], "figure 'fornt' is unknown; known: front, grid"),
        (None, ["--figures", "nfe"], "nfe.png is not there; write it with 'python -m eval report"),
        ("# Ours, without marks\n", [], "lacks the lines"),
    ],
)
def test_what_cannot_be_published_is_said_in_one_line(
    run, tmp_path, capsys, prepare, arguments, said
):
    out = tmp_path / "mine"
    out.mkdir()
    if prepare:
        (out / "README.md").write_text(prepare)
    assert main(["page", str(run), "--out", str(out), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [path.name for path in out.iterdir()] == (["README.md"] if prepare else [])


def test_a_run_without_results_is_said_in_one_line(tmp_path, capsys):
    assert main(["page", str(tmp_path / "none")]) == 2
    assert "none is not there; give results.json" in capsys.readouterr().err


def test_a_known_arm_looks_the_same_beside_any_others():
    few = styles(["exp2m_cfg++", "dpm3m_sde"], "exp2m_cfg++")
    many = styles(["mine", *KNOWN[:-1], "dpm3m_sde_cfg++", "exp2m_cfg++", "yours"], "exp2m_cfg++")
    for arm, others in (("dpm3m_sde", many), ("exp2m_cfg++", many)):
        assert all(few[arm][part] == others[arm][part] for part in ("color", "marker", "lw"))
    assert many["dpm3m_sde_cfg++"]["color"] == many["dpm3m_sde"]["color"]
    drawn = [(many[arm]["color"], many[arm]["marker"]) for arm in many if "_cfg++" not in arm]
    assert len(set(drawn)) == len(drawn) == len(KNOWN) + 1
