"""The command line: ``cmbagent run``, ``cmbagent demo`` and ``cmbagent workflows``."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cmbagent.callbacks import StepInfo
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

_MODEL_FIELDS = {
    "planning": ("planner_model", "plan_reviewer_model"),
    "control": ("engineer_model", "researcher_model"),
    "idea_generation": ("idea_maker_model", "idea_hater_model"),
}
"""The models that a phase is bound to ask, by phase type."""

app = typer.Typer(
    help="Agent workflows for science: plan, review, write code, run it here, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    app()


class UsageError(ValueError):
    """What was asked for cannot be asked for; the message says what can."""


def _version(wanted: bool) -> None:
    if wanted:
        import cmbagent

        typer.echo(f"cmbagent {cmbagent.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Agent workflows for science: plan, review, write code, run it here, report."""


@app.command()
def workflows() -> None:
    """List the workflows that `cmbagent run` knows."""
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    width = max(len(name) for name in SYSTEM_WORKFLOWS)
    for name, each in SYSTEM_WORKFLOWS.items():
        phases = " → ".join(phase["type"] for phase in each.phases)
        typer.echo(f"{name:<{width}}  {each.name}: {phases}")


@app.command()
def demo(
    work_dir: Annotated[Path, typer.Option(help="Where everything lands.")] = Path("demo_output"),
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Run a whole research workflow here, with scripted models: no key, no network."""
    from cmbagent.demo import run_demo

    with _Told(debug):
        raise typer.Exit(run_demo(work_dir))


@app.command()
def run(
    workflow: Annotated[str, typer.Argument(help="Which workflow; `cmbagent workflows` lists them.")],
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only the closing line.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")] = False,
) -> None:
    """Run a workflow on real models.

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
    told = _Told(debug)
    with told:
        definition = find_workflow(workflow)
        if not task.strip():
            raise UsageError("The task is empty; say in your words what is to be done.")
        if restart_at_step is not None:
            definition = restarted(definition, work_dir.expanduser(), restart_at_step)
        definition = configured(definition, {k: v for k, v in settings.items() if v is not None}, model)
        if dry_run:
            _show_estimate(definition, task, work_dir, options)
            return
        executor = _executor(definition, task, work_dir, quiet, options)
        told.follow(executor)
        context = executor.run_sync()
        if quiet:
            typer.echo(
                f"Completed in {context.phase_timings.get('total', 0.0):.1f} s. Results: {context.work_dir}"
            )


def find_workflow(name: str) -> WorkflowDefinition:
    """The system workflow with this id.

    Raises:
        UsageError: when there is none; the message has the ids and the nearest.
    """
    from cmbagent.workflows import SYSTEM_WORKFLOWS

    if name in SYSTEM_WORKFLOWS:
        return SYSTEM_WORKFLOWS[name]
    near = difflib.get_close_matches(name, SYSTEM_WORKFLOWS, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise UsageError(f"Unknown workflow: {name}.{hint} Available: {', '.join(SYSTEM_WORKFLOWS)}")


def configured(
    definition: WorkflowDefinition, settings: dict[str, Any], model: str | None
) -> WorkflowDefinition:
    """A copy of a workflow with settings put into every phase that has them.

    Args:
        definition: The workflow; it stays as it is.
        settings: Config field → value.
        model: For every agent whose model is not in ``settings``.

    Raises:
        UsageError: when a setting fits no phase of the workflow.
    """
    from cmbagent.phases import PhaseRegistry

    left = set(settings)
    phases = []
    for phase in definition.phases:
        config_class = PhaseRegistry.get(phase["type"]).config_class
        names = {each.name for each in dataclasses.fields(config_class)} if config_class else set()
        models = {name: model for name in names if model and (name == "model" or name.endswith("_model"))}
        chosen = {name: value for name, value in settings.items() if name in names}
        left -= set(chosen)
        config = {**phase.get("config", {}), **models, **chosen}
        if model:
            # Agents whose model is no field of the phase, such as the one that gives a second opinion.
            others = {"default_llm_model": model, "default_formatter_model": model}
            config["params"] = {**others, **config.get("params", {})}
        phases.append({**phase, "config": config})
    if left:
        options = {"max_n_attempts": "--max-attempts"}
        named = ", ".join(sorted(options.get(each, "--" + each.replace("_", "-")) for each in left))
        raise UsageError(f"The workflow {definition.id} has no phase that {named} applies to.")
    return dataclasses.replace(definition, phases=phases)


def restarted(definition: WorkflowDefinition, work_dir: Path, step: int) -> WorkflowDefinition:
    """A copy of a workflow that begins at a step of the plan in ``work_dir``.

    Args:
        definition: A workflow with a control phase.
        work_dir: Where the earlier run left its plan and its contexts.
        step: 1-based number of the step to go on at.

    Raises:
        UsageError: when the workflow has no control phase.
        CmbagentError: when the files of the earlier run are missing or the plan is shorter.
    """
    from cmbagent.workflows._calls import restart_settings

    types = [phase["type"] for phase in definition.phases]
    if "control" not in types:
        raise UsageError(f"The workflow {definition.id} has no steps to restart at.")
    at = types.index("control")
    control = dict(definition.phases[at])
    control["config"] = {**control.get("config", {}), "params": restart_settings(str(work_dir), step)}
    return dataclasses.replace(definition, phases=[control, *definition.phases[at + 1 :]])


def missing_keys(phases: list[Any], keys: dict[str, Any]) -> list[str]:
    """What has to be set before the phases can ask their models; empty when nothing is.

    Args:
        phases: The phases of an executor.
        keys: Provider in capitals → key or ``None``.
    """
    from cmbagent import _core

    lacks: dict[str, list[str]] = {}
    for phase in phases:
        names: tuple[str, ...] = _MODEL_FIELDS.get(phase.phase_type, ())
        if phase.phase_type == "planning" and not phase.config.n_plan_reviews:
            names = ("planner_model",)
        elif phase.phase_type == "one_shot":
            names = (f"{phase.config.agent}_model",)
        for model in (getattr(phase.config, name, None) or "" for name in names):
            provider = _core.route(model).upper() if model else ""
            if provider and not keys.get(provider) and not os.environ.get(f"{provider}_BASE_URL"):
                lacks.setdefault(provider, []).append(model)
    return [
        f"{', '.join(dict.fromkeys(models))}: set {name}_API_KEY (for a server of your own: {name}_BASE_URL)"
        for name, models in lacks.items()
    ]


def _show_estimate(
    definition: WorkflowDefinition, task: str, work_dir: Path, options: dict[str, Any]
) -> None:
    from cmbagent.workflows import WorkflowExecutor

    estimate = WorkflowExecutor(definition, task, str(work_dir), {}, options=options).estimate()
    typer.echo(estimate.prompts())
    typer.echo(f"\n{estimate}")


def _executor(
    definition: WorkflowDefinition, task: str, work_dir: Path, quiet: bool, options: dict[str, Any]
) -> WorkflowExecutor:
    from cmbagent.approvals import default_manager
    from cmbagent.utils import get_api_keys_from_env
    from cmbagent.workflows import WorkflowExecutor

    asks = any(_asks(phase) for phase in definition.phases)
    manager = default_manager()
    if asks and manager is None:
        raise UsageError(
            f"The workflow {definition.id} asks you questions, and standard input is no terminal. "
            "Run it in a terminal, set CMBAGENT_HITL to approve or reject, or use a workflow without hitl."
        )
    keys = get_api_keys_from_env()
    executor = WorkflowExecutor(
        workflow=definition,
        task=task,
        work_dir=str(work_dir),
        api_keys=keys,
        approval_manager=manager,
        verbose=False if quiet else None,
        options=options,
    )
    lacks = missing_keys(executor.phases, keys)
    if lacks:
        raise UsageError("No key for " + "; for ".join(lacks) + ". Other models can be chosen with --model.")
    return executor


def _asks(phase: dict[str, Any]) -> bool:
    config = phase.get("config", {})
    if phase["type"] in ("hitl_planning", "hitl_control"):
        return True
    if phase["type"] == "hitl_checkpoint":
        return bool(config.get("require_approval", True))
    return bool(config.get("hitl_after_each_step") or config.get("hitl_enabled"))


class _Told:
    """Turns what goes wrong inside into a line on standard error and an exit status."""

    def __init__(self, debug: bool) -> None:
        self._debug = debug
        self._executor: WorkflowExecutor | None = None
        self._step = 0

    def follow(self, executor: WorkflowExecutor) -> None:
        """Watches a run, to say how to go on should it not come to its end."""
        from cmbagent.callbacks import WorkflowCallbacks

        self._executor = executor
        executor.callbacks = WorkflowCallbacks(on_step_start=self._reached)

    def _reached(self, step: StepInfo) -> None:
        self._step = step.step_number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: Any) -> None:
        if problem is None or isinstance(problem, (typer.Exit, SystemExit)):
            return
        if isinstance(problem, KeyboardInterrupt):
            typer.echo("Interrupted; what is finished is in the work directory.", err=True)
            self._say_how_to_go_on()
            raise typer.Exit(130) from None
        if self._debug or not isinstance(problem, Exception):
            return
        from cmbagent.errors import CmbagentError

        text = str(problem) or type(problem).__name__
        known = isinstance(problem, (CmbagentError, ValueError, RuntimeError, OSError))
        if not self._was_shown(problem):
            typer.echo(f"error: {text if known else f'{type(problem).__name__}: {text}'}", err=True)
        self._say_how_to_go_on()
        raise typer.Exit(2 if isinstance(problem, UsageError) else 1) from None

    def _was_shown(self, problem: Exception) -> bool:
        """Whether the run's display ended with this very text, just above on the same terminal."""
        from cmbagent.display import make_display
        from cmbagent.errors import PhaseFailedError, PhaseValidationError

        return (
            self._executor is not None
            and isinstance(problem, (PhaseFailedError, PhaseValidationError))
            and make_display(self._executor.verbose) is not None
            and sys.stdout.isatty()
            and sys.stderr.isatty()
        )

    def _say_how_to_go_on(self) -> None:
        if self._executor is None or not any(p.phase_type == "control" for p in self._executor.phases):
            return
        before = Path(self._executor.work_dir, "context", f"context_step_{self._step - 1}.pkl")
        if self._step and before.is_file():
            typer.echo(
                f"To go on at step {self._step}: the same command with --restart-at-step {self._step}",
                err=True,
            )
