"""Runs recorded on a tape and replayed without a model, a key or a network."""

import asyncio
import json
import os
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmbagent import archive, control, deep_research, one_shot, planning_and_control, process_folder
from cmbagent.cli import app
from cmbagent.errors import ConfigurationError, MissingFileError, TapeError
from cmbagent.phases import Phase, PhaseConfig, PhaseResult, PhaseStatus
from cmbagent.store import Store
from cmbagent.testing import Fault, ModelServer, code, notes
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor, get_workflow
from papers import pdf, serve
from procs import executor
from scripted import STEPS, run, two_steps

KEY = "sk-proj-MARKED-4f3c2b1a0987"
COSTLY = dict.fromkeys(
    ("planner_model", "plan_reviewer_model", "engineer_model", "researcher_model"), "gpt-4.1"
)


@pytest.fixture
def nowhere(monkeypatch):
    """Every provider leads to a port at which nobody listens."""
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def tape(tmp_path):
    """A recorded run of six calls' worth: its tape and its results."""
    path = tmp_path / "tape.jsonl"
    results = run(
        two_steps(),
        deep_research,
        "Measure.",
        work_dir=tmp_path / "a",
        record=path,
        api_keys={"OPENAI": KEY},
        **COSTLY,
    )
    return path, results


def essence(results, work_dir):
    context = results["final_context"]
    told = {
        name: context[name] for name in ("final_plan", "previous_steps_execution_summary", "current_status")
    }
    return json.dumps(told).replace(str(work_dir), "ROOT")


def files(root):
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    # Names with a time, and what lies hidden.
    return sorted(
        str(p)
        for p in found
        if not {"cost", "time"} & set(p.parts) and not any(x.startswith(".") for x in p.parts)
    )


def warnings_of(executor):
    async def listen():
        return [data async for kind, data in executor.events() if kind == "warning"]

    return asyncio.run(listen())


def test_a_whole_workflow_is_replayed_offline_without_a_key(tmp_path, tape, nowhere):
    path, recorded = tape
    assert recorded["status"] == "completed"
    replayed = deep_research("Measure.", work_dir=tmp_path / "b", replay=path, strict=True, **COSTLY)
    assert essence(replayed, tmp_path / "b") == essence(recorded, tmp_path / "a")
    assert files(tmp_path / "b") == files(tmp_path / "a")
    assert (tmp_path / "b/control/data/plot_1.png").read_bytes().startswith(b"\x89PNG")


def test_a_class_replays_one_tape_at_once(tmp_path, nowhere):
    tape = tmp_path / "tape.jsonl"
    first = run(two_steps(), one_shot, "t", work_dir=tmp_path / "first", record=tape)
    recorded = tape.read_bytes()
    places = [tmp_path / f"pupil_{n}" for n in range(8)]
    definition = get_workflow("one_shot")
    pupils = [WorkflowExecutor(definition, "t", place, replay=tape) for place in places]

    async def lesson():
        await asyncio.gather(*(pupil.run() for pupil in pupils))

    asyncio.run(lesson())
    assert first["status"] == "completed" and [pupil.outcome for pupil in pupils] == ["completed"] * 8
    assert all((place / "data/plot_1.png").exists() for place in places)
    assert tape.read_bytes() == recorded


def test_the_tape_holds_no_key_and_belongs_to_its_owner(tmp_path, tape):
    path, _ = tape
    text = path.read_text()
    assert "MARKED" not in text and str(tmp_path / "a") not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert (lines[0]["tape"], lines[0]["workflow"]) == (1, "deep_research")
    agents = ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
    assert [line["place"]["agent"] for line in lines[1:]] == agents
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tokens_are_shown_and_nothing_is_billed(tmp_path, tape, nowhere):
    path, _ = tape
    deep_research("Measure.", work_dir=tmp_path / "b", replay=path, **COSTLY)
    on_tape = [json.loads(line)["reply"]["usage"] for line in path.read_text().splitlines()[1:]]
    assert sum(usage["cost"] for usage in on_tape) > 0
    reports = [json.loads(each.read_text())[-1] for each in (tmp_path / "b").rglob("cost_report*.json")]
    assert reports and all(row["Cost ($)"] == 0 and row["Total Tokens"] > 0 for row in reports)


def test_the_other_functions_take_tapes_too(tmp_path, nowhere):
    for function, extra in ((one_shot, {}), (planning_and_control, {}), (control, {"plan": STEPS})):
        name = function.__name__
        tape = tmp_path / f"{name}.jsonl"
        first = run(two_steps(), function, "t", work_dir=tmp_path / f"{name}_a", record=tape, **extra)
        again = function("t", work_dir=tmp_path / f"{name}_b", replay=str(tape), strict=True, **extra)
        assert (first["status"], again["status"]) == ("completed", "completed")
        assert essence(again, tmp_path / f"{name}_b") == essence(first, tmp_path / f"{name}_a")


def test_a_difference_is_a_warning_with_a_diff_or_an_error(tmp_path, tape, nowhere, capsys):
    path, _ = tape

    def executor(**settings):
        definition = get_workflow("deep_research")
        phases = [{**phase, "config": dict(phase["config"])} for phase in definition.phases]
        phases[0]["config"].update(
            n_plan_reviews=1, plan_instructions="Weigh the dog.", **_models("planner", "plan_reviewer")
        )
        phases[1]["config"].update(_models("engineer", "researcher"))
        changed = WorkflowDefinition(id=definition.id, name="x", phases=phases)
        return WorkflowExecutor(
            changed, "Measure.", tmp_path / settings.pop("place"), replay=path, **settings
        )

    lenient = executor(place="b", verbose=True)
    lenient.run_sync()
    assert lenient.outcome == "completed"
    told = [w for w in warnings_of(lenient) if w.get("diff")]
    assert told and "differs" in told[0]["message"] and "Weigh the dog." in told[0]["diff"]
    assert "Weigh" not in told[0]["message"]
    shown = [line.strip() for line in capsys.readouterr().out.splitlines() if "Weigh the dog." in line]
    assert shown and shown[0].startswith("+")

    strict = executor(place="c", strict=True)
    with pytest.raises(RuntimeError, match="strict=True") as caught:
        strict.run_sync()
    cause = caught.value.__cause__
    assert isinstance(cause, TapeError) and (cause.agent, cause.phase) == ("planner", "planning")
    assert "Weigh" not in str(caught.value)
    assert "Weigh the dog." in warnings_of(strict)[0]["diff"]


def _models(*agents):
    return {f"{agent}_model": "gpt-4.1" for agent in agents}


def test_a_call_that_the_tape_lacks_is_an_error_and_no_call(tmp_path):
    tape = tmp_path / "tape.jsonl"
    # The script fails only where the file of the recorded run is missing.
    script = f"from pathlib import Path\nassert Path({str(tmp_path / 'here')!r}).exists()\nprint('a = 1')"
    (tmp_path / "here").touch()
    server = ModelServer({"engineer": code(script, filename="a.py")})
    run(server, one_shot, "t", work_dir=tmp_path / "a", record=tape)
    (tmp_path / "here").unlink()
    again = ModelServer({"engineer": code(script, filename="a.py")})
    with pytest.raises(RuntimeError, match=r"call 2 of the engineer in phase 0 \(one_shot\)") as caught:
        run(again, one_shot, "t", work_dir=tmp_path / "b", replay=tape)
    assert isinstance(caught.value.__cause__, TapeError)
    assert again.calls == []


def test_a_failed_run_fails_alike(tmp_path, nowhere):
    tape = tmp_path / "tape.jsonl"
    server = two_steps(researcher=Fault.status(400, "no such thing"))
    with pytest.raises(RuntimeError, match="no such thing"):
        run(server, deep_research, "t", work_dir=tmp_path / "a", record=tape)
    with pytest.raises(RuntimeError, match=r"no such thing.*so it was recorded"):
        deep_research("t", work_dir=tmp_path / "b", replay=tape)


def test_arguments_that_do_not_go_together(tmp_path):
    definition = get_workflow("one_shot")
    with pytest.raises(ConfigurationError, match="exclude each other"):
        WorkflowExecutor(definition, "t", tmp_path, record="a", replay="b")
    with pytest.raises(ConfigurationError, match="give the tape as replay="):
        one_shot("t", work_dir=tmp_path, strict=True)
    with pytest.raises(MissingFileError, match="there is no tape"):
        one_shot("t", work_dir=tmp_path, replay=tmp_path / "none.jsonl")
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(ConfigurationError, match="no usable tape"):
        one_shot("t", work_dir=tmp_path / "w", replay=tmp_path / "text")
    with pytest.raises(ConfigurationError, match="no usable tape"):
        one_shot("t", work_dir=tmp_path / "w", record=tmp_path / "text")
    assert (tmp_path / "text").read_text() == "hello\n"
    with pytest.raises(ConfigurationError, match="would delete the tape"):
        one_shot("t", work_dir=tmp_path, replay=tmp_path / "text", clear_work_dir=True)
    assert (tmp_path / "text").exists()


def test_another_runs_recording_is_not_written_over(tmp_path):
    tape = tmp_path / "tape.jsonl"
    run(two_steps(), one_shot, "t", work_dir=tmp_path / "a", record=tape)
    before = tape.read_text()
    server = two_steps()
    with pytest.raises(ConfigurationError, match="is not written over"):
        run(server, one_shot, "t", work_dir=tmp_path / "b", record=tape)
    assert (tape.read_text(), server.calls) == (before, [])


def test_a_relative_tape_stays_where_it_was_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    executor = WorkflowExecutor(get_workflow("one_shot"), "t", tmp_path / "w", record="tape.jsonl")
    assert executor.record == str(tmp_path / "tape.jsonl")


@dataclass
class OuterConfig(PhaseConfig):
    phase_type: str = "outer"


class OuterPhase(Phase):
    """A phase that asks a model itself, runs workflows of its own at once, and asks again."""

    config_class = OuterConfig
    phase_type = "outer"
    display_name = "Outer"

    def __init__(self, config=None):
        super().__init__(config or OuterConfig())

    async def execute(self, context):
        first = await context.run.call("first?")
        inner = [
            WorkflowExecutor(
                get_workflow("one_shot_researcher"), f"inner {n}", Path(context.work_dir) / f"inner_{n}"
            )
            for n in range(2)
        ]
        await asyncio.gather(*(each.run() for each in inner))
        context.output_data["said"] = [first, await context.run.call("second?")]
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)

    def validate_input(self, context):
        return []


def test_phases_and_workflows_within_are_on_the_same_tape(tmp_path):
    tape = tmp_path / "tape.jsonl"
    definition = WorkflowDefinition(id="w", name="W", phases=[{"type": "one_shot", "config": {}}])

    def executor(place, **settings):
        made = WorkflowExecutor(definition, "t", tmp_path / place, **settings)
        made.phases = [OuterPhase()]
        return made

    answers = {"assistant": ["one", "two"], "researcher": lambda call: notes(f"# {'inner 0' in call.prompt}")}
    with ModelServer(answers) as server, server.environment():
        first = executor("a", record=tape)
        first.run_sync()
    assert len(server.calls) == 4
    with ModelServer({}) as silent, silent.environment():
        again = executor("b", replay=tape, strict=True)
        again.run_sync()
    assert silent.calls == []
    assert again.results[0].context.output_data["said"] == ["one", "two"]
    for n in range(2):
        written = [next((tmp_path / place / f"inner_{n}").rglob("*.md")).read_text() for place in "ab"]
        assert written[0] == written[1] and f"# {n == 0}" in written[0]


def test_command_line(tmp_path, nowhere, monkeypatch):
    tape = tmp_path / "tape.jsonl"
    run_it = ["run", "one_shot", "Compute.", "--model", "gpt-4.1", "--quiet"]
    with two_steps() as server, server.environment():
        first = CliRunner().invoke(app, [*run_it, "--work-dir", str(tmp_path / "a"), "--record", str(tape)])
    assert first.exit_code == 0, first.output
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.delenv(f"{name}_BASE_URL")
    place = ["--work-dir", str(tmp_path / "b")]
    again = CliRunner().invoke(app, [*run_it, *place, "--replay", str(tape), "--strict"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "b/data/plot_1.png").exists()
    wrong = CliRunner().invoke(app, [*run_it, *place, "--strict"])
    assert wrong.exit_code == 2 and "name it with --replay" in wrong.output
    both = CliRunner().invoke(app, [*run_it, *place, "--replay", str(tape), "--record", "x.jsonl"])
    assert both.exit_code == 2 and "exclude each other" in both.output
    missing = CliRunner().invoke(app, [*run_it, *place, "--replay", str(tmp_path / "none.jsonl")])
    assert missing.exit_code == 1 and "there is no tape" in missing.output


@pytest.mark.parametrize("key", ["test-mistral", ""])
def test_what_pdfs_say_is_on_the_tape(tmp_path, monkeypatch, key):
    monkeypatch.setenv("MISTRAL_API_KEY", key)
    papers = tmp_path / "papers"
    papers.mkdir()
    for n in range(6):
        (papers / f"{n}.pdf").write_bytes(pdf(f"Page of {n}"))

    async def read(context):
        context.output_data["read"] = process_folder(papers, work_dir=context.work_dir, max_workers=2)

    def play(place, **settings):
        (made := executor(tmp_path / place, read, **settings)).run_sync()
        done = made.results[0].context.output_data["read"]
        texts = sorted((tmp_path / place).rglob("papers_processed/*.md"))
        costs = [
            json.loads(each.read_text())[-1]["Cost ($)"] for each in (tmp_path / place).rglob("cost_re*")
        ]
        return done["processed_files"], [text.read_text() for text in texts], costs

    tape = tmp_path / "tape.jsonl"
    with serve(monkeypatch) as service:
        if key:
            monkeypatch.setenv("MISTRAL_BASE_URL", service.url)
        count, texts, costs = play("a", record=tape)
    # Nobody serves any more, and there is no key.
    monkeypatch.delenv("MISTRAL_API_KEY")
    again = play("b", replay=tape, strict=True)
    assert (count, len(texts), len(service.read)) == (6, 6, 6 if key else 0)
    assert again[:2] == (6, texts)
    assert (costs, again[2]) == (([pytest.approx(0.048)], [0.0]) if key else ([], []))


def test_a_run_that_read_pdfs_is_exported_with_its_tape(tmp_path, monkeypatch):
    monkeypatch.setenv("MISTRAL_API_KEY", "test-mistral")
    (tmp_path / "a.pdf").write_bytes(pdf("x"))

    async def read(context):
        context.output_data["pages"] = (await context.run.read_pdf(tmp_path / "a.pdf"))["pages"]

    with serve(monkeypatch) as service:
        monkeypatch.setenv("MISTRAL_BASE_URL", service.url)
        first = executor(tmp_path / "w", read, record=tmp_path / "tape.jsonl")
        first.run_sync()
    archive.export_run(Store(), first.context.run_id, tmp_path / "run.zip")
    with zipfile.ZipFile(tmp_path / "run.zip") as exported:
        assert exported.read("tape.jsonl") == (tmp_path / "tape.jsonl").read_bytes()
