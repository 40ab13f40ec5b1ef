"""`cmbagent run`: a workflow from its begin."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cmbagent.cli import _complete, _detach
from cmbagent.cli._app import AsJson, Debug, Detach, Plain, Quiet, UsageError, app
from cmbagent.cli._definition import asks, configured, find_workflow, missing_keys, restarted
from cmbagent.cli._perform import manager_of, perform
from cmbagent.cli._screen import Screen
from cmbagent.cli._told import Told

if TYPE_CHECKING:
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
    from cmbagent.workflows._tape import Tape


@app.command()
def run(
    context: typer.Context,
    workflow: Annotated[
        str,
        typer.Argument(
            help="Which workflow; `cmbagent workflows` lists them.", autocompletion=_complete.workflows
        ),
    ],
    task: Annotated[str, typer.Argument(help="What is to be done, in your words.")],
    work_dir: Annotated[Path, typer.Option(help="Where everything lands.")] = Path("cmbagent_output"),
    model: Annotated[str | None, typer.Option(help="The model of every agent not named below.")] = None,
    engineer_model: Annotated[str | None, typer.Option(help="The model that writes code.")] = None,
    researcher_model: Annotated[str | None, typer.Option(help="The model that writes text.")] = None,
    planner_model: Annotated[str | None, typer.Option(help="The model that plans.")] = None,
    plan_reviewer_model: Annotated[str | None, typer.Option(help="The model that reviews plans.")] = None,
    max_plan_steps: Annotated[
        int | None, typer.Option(min=1, help="At most so many steps in a plan.")
    ] = None,
    n_plan_reviews: Annotated[int | None, typer.Option(min=0, help="How often the plan is reviewed.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=0, help="How often failing code is tried again.")
    ] = None,
    plan_instructions: Annotated[str | None, typer.Option(help="What the plan must keep to.")] = None,
    hardware_constraints: Annotated[str | None, typer.Option(help="What the machine offers.")] = None,
    restart_at_step: Annotated[
        int | None,
        typer.Option(min=1, help="Go on at this step of the plan that lies in the work directory."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with this workflow's newest run there, if there is one.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="Write every model call to this new file, a tape.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Answer calls from this tape: no model, no key, no network.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail when a call differs from the tape's.")
    ] = False,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Spend at most so many dollars.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, help="Use at most so many tokens, prompts included.")
    ] = None,
    max_llm_calls: Annotated[
        int | None, typer.Option(min=0, help="Make at most so many calls of models.")
    ] = None,
    max_wall_seconds: Annotated[float | None, typer.Option(min=0, help="Take at most so long.")] = None,
    on_limit: Annotated[
        str | None, typer.Option(help="At a limit: stop, ask, or cheaper (with --cheaper-model).")
    ] = None,
    cheaper_model: Annotated[str | None, typer.Option(help="The model that --on-limit cheaper asks.")] = None,
    unpriced: Annotated[
        str | None, typer.Option(help="With --max-cost, a model without a price: stop or count-tokens.")
    ] = None,
    fallback_model: Annotated[
        list[str] | None,
        typer.Option(help="A model to ask when another cannot be reached; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the prompts and what they may cost; ask no model.")
    ] = False,
    detach: Detach = False,
    run_id: Annotated[str | None, typer.Option(hidden=True, help="The id that a new run gets.")] = None,
    plain: Plain = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a workflow on real models, or replay one from a tape.

    A terminal shows live progress, and is asked at checkpoints. With --json the last thing on standard output
    is one object with what the run came to; progress goes to standard error.

    Keys are read from OPENAI_API_KEY, ANTHROPIC_API_KEY and GEMINI_API_KEY; a server of your own is named in
    OPENAI_BASE_URL and needs no key.

    Example: cmbagent run one_shot "Plot sin(x)/x from -20 to 20." --work-dir sinc
    """
    settings = {
        "engineer_model": engineer_model,
        "researcher_model": researcher_model,
        "planner_model": planner_model,
        "plan_reviewer_model": plan_reviewer_model,
        "max_plan_steps": max_plan_steps,
        "n_plan_reviews": n_plan_reviews,
        "max_n_attempts": max_attempts,
        "plan_instructions": plan_instructions,
        "hardware_constraints": hardware_constraints,
    }
    limits = {
        "max_cost": max_cost,
        "max_tokens": max_tokens,
        "max_llm_calls": max_llm_calls,
        "max_wall_seconds": max_wall_seconds,
        "on_limit": on_limit,
        "cheaper_model": cheaper_model,
        "unpriced": unpriced,
        "model_fallbacks": fallback_model or None,
    }
    options = {name: value for name, value in limits.items() if value is not None}
    from cmbagent.workflows._tape import Tape

    told = Told(debug, as_json)
    with told:
        definition = find_workflow(workflow)
        if not task.strip():
            raise UsageError("The task is empty; say in your words what is to be done.")
        if record and replay:
            raise UsageError("--record and --replay exclude each other: a replay asks no model.")
        if strict and not replay:
            raise UsageError("--strict is about differences from a tape; name it with --replay.")
        if resume and restart_at_step is not None:
            raise UsageError(
                "--resume goes on where the run was, --restart-at-step elsewhere; give one of them."
            )
        if restart_at_step is not None:
            definition = restarted(definition, work_dir.expanduser(), restart_at_step)
        definition = configured(definition, {k: v for k, v in settings.items() if v is not None}, model)
        if dry_run:
            _show_estimate(told, definition, task, work_dir, options)
            return
        tape = Tape.of(record, replay, strict)
        manager = _detach.manager() if detach else manager_of(as_json)
        executor = _executor(definition, task, work_dir, quiet, options, tape, manager)
        if run_id is not None:
            executor.context.run_id = run_id
        if resume:
            executor.take_up_earlier_run()
        if detach:
            _detach.begin(told, context, executor)
            return
        perform(told, executor, Screen(quiet, plain, as_json))


def _show_estimate(
    told: Told, definition: WorkflowDefinition, task: str, work_dir: Path, options: dict[str, Any]
) -> None:
    from cmbagent.workflows import WorkflowExecutor

    estimate = WorkflowExecutor(definition, task, str(work_dir), {}, options=options).estimate()
    costs = {"cost_low": estimate.cost_low, "cost_high": estimate.cost_high}
    told.say({**dataclasses.asdict(estimate), **costs}, f"{estimate.prompts()}\n\n{estimate}")


def _executor(
    definition: WorkflowDefinition,
    task: str,
    work_dir: Path,
    quiet: bool,
    options: dict[str, Any],
    tape: Tape,
    manager: Any,
) -> WorkflowExecutor:
    from cmbagent.errors import ConfigurationError
    from cmbagent.utils import get_api_keys_from_env
    from cmbagent.workflows import WorkflowExecutor

    if manager is None and any(asks(phase) for phase in definition.phases):
        raise UsageError(
            f"The workflow {definition.id} asks you questions, and standard input is no terminal. "
            "Run it in a terminal, set CMBAGENT_HITL to queue (then cmbagent approve answers), approve or "
            "reject, or use a workflow without hitl."
        )
    keys = get_api_keys_from_env()
    try:
        executor = WorkflowExecutor(
            workflow=definition,
            task=task,
            work_dir=str(work_dir),
            api_keys=keys,
            approval_manager=manager,
            verbose=False if quiet else None,
            options=options,
            record=tape.record,
            replay=tape.replay,
            strict=tape.strict,
        )
    except ConfigurationError as error:
        raise UsageError(str(error)) from None
    lacks = [] if tape.replay else missing_keys(executor.phases, keys)
    if lacks:
        raise UsageError("No key for " + "; for ".join(lacks) + ". Other models can be chosen with --model.")
    return executor
