"""What the drop-in tool does to files: exactly the region, nothing lost, out again without a trace.

On tests/fixtures/cfgpp, or on a real checkout at CFGPP_MAIN.
"""

from __future__ import annotations

import shutil

import cfgpp_double as cfgpp
import pytest

from samplers.dropin import __main__ as command
from samplers.dropin import patch
from samplers.dropin.checkout import Target, read_target
from samplers.dropin.regions import region_text

MODES = pytest.mark.parametrize("inline", [False, True], ids=["shared", "inline"])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    place = cfgpp.checkout(tmp_path)
    monkeypatch.setattr(patch, "PUBLISHED", patch.PUBLISHED | cfgpp.published(place))
    return place


def run(*args) -> int:
    return command.main([str(a) for a in args])


@MODES
def test_write_check_and_revert(checkout, inline, capsys):
    flags = ["--inline"] * inline
    before = {path: path.read_bytes() for path in checkout.glob("*.py")}
    assert run(checkout, "--check", *flags) == 1
    assert "CFGpp's" in capsys.readouterr().out
    assert run(checkout, "--write", *flags) == 0
    for path, data in before.items():
        target = read_target(path)
        assert target.region == region_text(target.base, inline=inline)
        old = Target(path, data, "", 0, 0, 0)  # all but the region is as it was
        assert old.data.startswith(target.data[: target.start])
        assert old.data.endswith(target.data[target.end :])
    installed = {path: path.stat().st_mtime_ns for path in before}
    assert run(checkout, "--check", *flags) == 0
    assert run(checkout, "--check", "--arm", "ddim", *flags) == 1
    capsys.readouterr()
    assert run(checkout, "--write", *flags) == 0
    assert capsys.readouterr().out.count("installed already") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == installed
    assert run(checkout, "--revert") == 0
    assert {path: path.read_bytes() for path in checkout.glob("*.py")} == before
    assert cfgpp.git(checkout, "status", "--short") == ""
    assert not (checkout / ".git" / "samplers-dropin").exists()
    assert run(checkout, "--revert") == 0
    assert "nothing to revert" in capsys.readouterr().out


def test_the_diff_is_the_default_writes_nothing_and_applies(checkout, capsys):
    assert run(checkout) == 0
    text = capsys.readouterr().out
    assert cfgpp.git(checkout, "status", "--short") == ""
    (checkout.parent / "x.patch").write_text(text)
    cfgpp.git(checkout, "apply", "../x.patch")
    assert run(checkout, "--check") == 0


def test_another_arm_replaces_ours_and_revert_still_restores_the_first(checkout):
    for args in (["--arm", "dpm2m"], ["--inline", "--arm", "dpm2s"], []):
        assert run(checkout, "--write", *args) == 0
        assert run(checkout, "--check", *args) == 0
        assert (checkout / "samplers").exists() == ("--inline" not in args)
    assert run(checkout, "--revert") == 0
    assert cfgpp.git(checkout, "status", "--short") == ""


def test_a_region_edited_by_hand_needs_force_and_is_kept(checkout, capsys):
    assert run(checkout, "--write", "--inline") == 0
    path = checkout / "latent_diffusion.py"
    edited = path.read_text().replace("carry.decay * x", "carry.decay * x * 1.01")
    path.write_text(edited)
    for action in ("--write", "--revert"):
        assert run(checkout, action) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--force" in error and "edited" in error
        assert path.read_text() == edited
    assert run(checkout, "--write", "--force") == 0
    assert (checkout / "latent_diffusion.py.replaced").read_text() == edited
    assert run(checkout, "--revert") == 0
    assert cfgpp.git(checkout, "status", "--short").split() == ["??", f"{path.name}.replaced"]


def test_a_foreign_class_needs_force_and_comes_back(checkout, capsys):
    path = checkout / "latent_sdxl.py"
    target = read_target(path)
    path.write_bytes(target.with_region(target.region.replace("sqrt()", "sqrt().abs()", 1)))
    before = path.read_bytes()
    assert run(checkout, "--write") == 2
    assert f"line {target.line}" in capsys.readouterr().err
    assert path.read_bytes() == before and not (checkout / "samplers").exists()
    assert run(checkout, "--write", "--force") == 0
    assert run(checkout, "--revert") == 0
    assert path.read_bytes() == before


def test_edits_elsewhere_in_the_file_survive_a_revert(checkout):
    path = checkout / "latent_diffusion.py"
    before = path.read_text()
    assert run(checkout, "--write") == 0
    path.write_text(path.read_text() + "# mine\n")
    assert run(checkout, "--write", "--arm", "ddim") == 0
    assert run(checkout, "--revert") == 0
    assert path.read_text() == before + "# mine\n"


@MODES
def test_after_a_restore_by_git_the_file_of_now_is_what_a_revert_brings_back(checkout, inline):
    """The region is CFGpp's again, and the rest of the file may have moved on upstream."""
    path, flags = checkout / "latent_diffusion.py", ["--inline"] * inline
    assert run(checkout, "--write", *flags) == 0
    cfgpp.git(checkout, "checkout", "--", ".")
    path.write_text(path.read_text() + "# upstream\n")
    before = path.read_bytes()
    assert run(checkout, "--write", *flags) == 0
    assert not list(checkout.glob("*.replaced"))
    assert run(checkout, "--revert") == 0
    assert path.read_bytes() == before
    assert not (checkout / "samplers").exists()


@MODES
def test_after_a_restore_by_git_a_revert_clears_up(checkout, inline):
    assert run(checkout, "--write", *["--inline"] * inline) == 0
    cfgpp.git(checkout, "checkout", "--", ".")
    assert run(checkout, "--revert") == 0
    assert cfgpp.git(checkout, "status", "--short") == ""
    assert not (checkout / ".git" / "samplers-dropin").exists()


def test_line_ends_permissions_and_formatting_of_the_target_are_respected(checkout):
    path = checkout / "latent_diffusion.py"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    path.chmod(0o755)
    before = path.read_bytes()
    assert run(path, "--write", "--inline") == 0
    data = path.read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n") and path.stat().st_mode & 0o777 == 0o755
    assert run(path, "--check", "--inline") == 0
    assert run(path, "--revert") == 0
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["[]", '{".": []}', '{".": {"a": {}}}', "{", "null"])
def test_a_damaged_record_stops_before_anything_is_lost(checkout, capsys, text):
    assert run(checkout, "--write", "--inline") == 0
    place = checkout / ".git" / "samplers-dropin"
    (place / "index.json").write_text(text)
    kept = sorted(place.iterdir())
    assert run(checkout, "--revert") == 2
    assert "index.json is damaged; bring it back" in capsys.readouterr().err
    assert sorted(place.iterdir()) == kept


def test_in_a_linked_work_tree_the_copy_stands_in_gits_own_folder(checkout, tmp_path):
    linked = tmp_path / "linked"
    cfgpp.git(checkout, "worktree", "add", "-q", str(linked))
    assert run(linked, "--write", "--inline") == 0
    assert {p.name for p in linked.iterdir()} == {p.name for p in checkout.iterdir()}
    assert run(linked, "--revert") == 0
    assert cfgpp.git(linked, "status", "--short") == ""


def test_without_git_the_copy_stands_beside(checkout, tmp_path):
    shutil.rmtree(checkout / ".git")
    before = {p: p.read_bytes() for p in checkout.iterdir()}
    assert run(checkout, "--write") == 0
    assert (checkout / ".samplers-dropin").is_dir()
    assert run(checkout, "--revert") == 0
    assert {p: p.read_bytes() for p in checkout.iterdir()} == before


def test_a_file_in_the_way_of_the_package_is_seen_before_anything_is_written(checkout, capsys):
    (checkout / "samplers").write_text("mine\n")
    assert run(checkout, "--write") == 2
    assert "samplers is a file; rename it, or pass --inline" in capsys.readouterr().err
    assert cfgpp.git(checkout, "status", "--short").split() == ["??", "samplers"]


def test_the_package_stays_while_another_file_imports_it(checkout):
    other = checkout / "mine.py"
    shutil.copy(checkout / "latent_sdxl.py", other)
    assert run(checkout, "--write") == 0 == run(other, "--write")
    assert run(checkout, "--revert") == 0
    assert (checkout / "samplers" / "plan.py").is_file()
    assert run(other, "--revert") == 0
    assert not (checkout / "samplers").exists()


def test_a_foreign_samplers_folder_is_not_touched(checkout, capsys):
    (checkout / "samplers").mkdir()
    (checkout / "samplers" / "plan.py").write_text("mine = 1\n")
    assert run(checkout, "--write") == 2
    assert "not ours" in capsys.readouterr().err
    assert cfgpp.git(checkout, "status", "--short").split() == ["??", "samplers/"]
    assert run(checkout, "--write", "--inline") == 0 == run(checkout, "--revert")
    assert (checkout / "samplers" / "plan.py").read_text() == "mine = 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "class BaseDDIMCFGpp is not there"),
        ("class BaseDDIMCFGpp(SDXL):\n  pass\n" * 2, "stands there 2 times, lines 1 and 3"),
        ("def f(:\n", "line 1: syntax error"),
        ("class BaseDDIMCFGpp(Other):\n  pass\n", "derives from neither StableDiffusion nor SDXL"),
        ("# \xff\n", "cannot be read as Python in UTF-8"),
        ("class BaseDDIMCFGpp(SDXL):\n  pass\n", "neither that of a published CFGpp"),
    ],
)
def test_unusable_files_are_named_in_one_line_and_nothing_changes(checkout, capsys, text, message):
    path = checkout / "latent_sdxl.py"
    path.write_bytes(text.encode("latin-1"))
    before = {p: p.read_bytes() for p in checkout.glob("*.py")}
    assert run(checkout, "--write") == 2
    error = capsys.readouterr().err
    assert message in error and "latent_sdxl.py" in error and error.count("\n") == 1
    assert {p: p.read_bytes() for p in checkout.glob("*.py")} == before
    assert not (checkout / "samplers").exists()


def test_missing_and_read_only_files_and_unknown_arms(checkout, capsys):
    path = checkout / "latent_sdxl.py"
    for args, message in (
        ([checkout / "no"], "does not exist; give a CFGpp checkout"),
        ([checkout / ".git"], "neither latent_diffusion.py nor latent_sdxl.py there"),
        ([checkout, "--arm", "dpm2mm"], "did you mean 'dpm2m'?"),
        ([checkout, "--arm", "ddim_inversion"], "is an inversion"),
        ([cfgpp.FIXTURES.parents[2], "--write"], "this project's own file"),
    ):
        assert run(*args) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    path.chmod(0o444)
    assert run(checkout, "--write") == 2
    assert "read-only; nothing was changed" in capsys.readouterr().err
    assert cfgpp.git(checkout, "diff", "--stat", "--", "latent_diffusion.py") == ""
