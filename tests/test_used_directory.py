"""What happens to files that are there before a run: the user's stay, an earlier run's are set aside."""

import json
from pathlib import Path

import pytest

import cmbagent
from cmbagent import control, deep_research, one_shot, planning_and_control
from cmbagent.testing import Fault, code, notes
from scripted import STEPS, run, two_steps

USER_FILES = ["control/data/input.csv", "control/data/photo.png", "control/mine.txt", "planning/wishes.md"]


def plot(name):
    source = f"""
    from pathlib import Path
    Path("data").mkdir(exist_ok=True)
    Path("data/{name}.png").write_bytes(b"x")
    print(Path("data/input.csv").exists())
    """
    return code(source, filename=f"{name}.py")


@pytest.fixture
def used(tmp_path):
    for name in USER_FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def kept(root):
    return all((root / name).read_text() == name for name in USER_FILES)


@pytest.mark.parametrize("function", [deep_research, planning_and_control])
def test_lesson_08_second_run_in_the_same_directory(used, function):
    first = run(two_steps(engineer=plot("one")), function, "t", work_dir=used)
    assert kept(used)
    second = run(two_steps(engineer=plot("two")), function, "t", work_dir=used)
    third = run(two_steps(engineer=plot("three")), function, "t", work_dir=used)
    assert kept(used)
    images = [[Path(p).name for p in r["final_context"]["displayed_images"]] for r in (first, second, third)]
    assert images == [["one.png"], ["two.png"], ["three.png"]]
    assert not [f for f in third["output_files"] if "one" in f or "two" in f or "photo" in f]
    previous = used / ".previous"
    assert {p.name for p in previous.iterdir()} == {first["run_id"], second["run_id"]}
    aside = previous / first["run_id"]
    for name in ("control/data/one.png", "control/codebase/one.py", "planning/final_plan.json"):
        assert (aside / name).exists(), name
        assert (used / name).exists() == (name == "planning/final_plan.json")
    assert not [f for f in previous.rglob("*") if f.name in {Path(name).name for name in USER_FILES}]


def test_second_one_shot_in_the_same_directory(tmp_path, capsys):
    (tmp_path / "mine.png").write_text("x")
    first = run(two_steps(engineer=plot("one")), one_shot, "t", work_dir=tmp_path, verbose=True)
    assert "set aside" not in capsys.readouterr().out
    second = run(two_steps(engineer=plot("two")), one_shot, "t", work_dir=tmp_path, verbose=True)
    told = f"files of the earlier run in this directory: set aside in .previous/{first['run_id']}\n"
    assert told in capsys.readouterr().out
    assert [Path(p).name for p in second["final_context"]["displayed_images"]] == ["two.png"]
    assert (tmp_path / ".previous" / first["run_id"] / "data" / "one.png").exists()
    assert (tmp_path / "mine.png").exists()


def test_control_again_and_again_with_the_plan_of_the_directory(tmp_path):
    run(two_steps(engineer=plot("one")), deep_research, "t", work_dir=tmp_path)
    plan = tmp_path / "planning" / "final_plan.json"
    plan.write_text(plan.read_text().replace("compute", "compute it anew"))
    for name in ("two", "three"):
        server = two_steps(engineer=plot(name))
        result = run(server, control, "t", plan=plan, work_dir=tmp_path)
        server.assert_calls(["engineer", "researcher"])
        assert "compute it anew" in server.prompts("engineer")[0]
        assert [Path(p).name for p in result["final_context"]["displayed_images"]] == [f"{name}.png"]
    assert sorted(p.name for p in (tmp_path / "control" / "data").iterdir()) == ["three.png"]


def test_products_of_a_run_that_broke_off_are_set_aside_too(tmp_path):
    begun = code("open('codebase/half.txt', 'w').write('x')", filename="half.py", remaining="the rest")
    with pytest.raises(cmbagent.CmbagentError, match="401"):
        run(two_steps(engineer=[begun, Fault.status(401)]), deep_research, "t", work_dir=tmp_path)
    assert (tmp_path / "control" / "codebase" / "half.py").exists()
    run(two_steps(), deep_research, "t", work_dir=tmp_path)
    assert sorted(p.name for p in (tmp_path / "control" / "codebase").iterdir()) == ["plot.py"]
    assert len(list((tmp_path / ".previous").glob("*/control/codebase/half.*"))) == 2


def test_a_users_file_that_a_script_changes_stays_in_its_place(used):
    append = code("open('data/input.csv', 'a').write('more'); print('row added')", filename="append.py")
    for _ in range(2):
        result = run(two_steps(engineer=append), deep_research, "t", work_dir=used)
        assert str(used / "control/data/input.csv") in result["output_files"]
    assert (used / "control/data/input.csv").read_text() == "control/data/input.csvmoremore"


def test_restarting_sets_nothing_aside(used):
    run(two_steps(engineer=plot("one")), deep_research, "t", work_dir=used)
    result = run(two_steps(researcher=notes("# Again")), deep_research, "t", work_dir=used, restart_at_step=2)
    assert not (used / ".previous").exists()
    assert kept(used)
    assert [Path(p).name for p in result["final_context"]["displayed_images"]] == ["one.png"]


@pytest.mark.parametrize("clear", [True, False])
def test_lesson_07_a_run_elsewhere_leaves_the_default_directory_alone(tmp_path, monkeypatch, clear):
    monkeypatch.chdir(tmp_path)
    default = tmp_path / "cmbagent_output"
    run(two_steps(), one_shot, "t")
    before = {p: p.stat().st_mtime_ns for p in default.rglob("*")}
    assert default / "codebase" / "plot.py" in before
    for function in (deep_research, one_shot):
        run(two_steps(), function, "t", work_dir=tmp_path / "elsewhere", clear_work_dir=clear)
    run(two_steps(), control, "t", plan=STEPS, work_dir=tmp_path / "elsewhere", clear_work_dir=clear)
    assert {p: p.stat().st_mtime_ns for p in default.rglob("*")} == before


@pytest.mark.parametrize("function", [deep_research, planning_and_control, one_shot, control])
@pytest.mark.parametrize("clear", [True, False, None])
def test_only_clear_work_dir_true_deletes(used, function, clear):
    arguments = {} if clear is None else {"clear_work_dir": clear}
    if function is control:
        arguments["plan"] = STEPS
    run(two_steps(), function, "t", work_dir=used, **arguments)
    assert [(used / name).exists() for name in USER_FILES] == [clear is not True] * len(USER_FILES)


def test_the_record_names_products_only(used):
    run(two_steps(engineer=plot("one")), deep_research, "t", work_dir=used)
    record = json.loads((used / ".cmbagent-run.json").read_text())
    assert "control/data/one.png" in record["products"]
    assert not set(USER_FILES) & set(record["products"])
