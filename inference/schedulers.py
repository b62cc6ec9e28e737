"""Schedulers on the noise schedule of a checkpoint: the default for few steps, and others."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

Scheduler = TypeVar("Scheduler", bound="SchedulerMixin")


def few_step_scheduler(
    scheduler: "SchedulerMixin | Mapping[str, Any]",
    *,
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++",
) -> "DPMSolverMultistepScheduler":
    """Create a second-order DPM-Solver++ for a checkpoint's noise schedule.

    See Lu et al. (2022), arXiv 2211.01095. The betas and the prediction type are kept; the steps
    start at the noisiest timestep, which the leading spacing of AudioLDM's own DDIM omits, and end
    at zero noise.

    Args:
        scheduler: Scheduler of the checkpoint, or its config.
        algorithm_type: diffusers' name of the solver; `"sde-dpmsolver++"` adds noise at each step.

    Returns:
        Scheduler for 10 to 20 steps (docs/pipelines.md has the accuracy).

    Examples:
        >>> from diffusers import DDIMScheduler
        >>> from clip2clap.inference import few_step_scheduler
        >>> few_step_scheduler(DDIMScheduler()).config["algorithm_type"]
        'dpmsolver++'
    """
    from diffusers import DPMSolverMultistepScheduler

    return replace_solver(
        scheduler,
        DPMSolverMultistepScheduler,
        algorithm_type=algorithm_type,
        solver_order=2,
        timestep_spacing="linspace",
        final_sigmas_type="zero",
    )


def replace_solver(
    scheduler: "SchedulerMixin | Mapping[str, Any]", solver: type[Scheduler], **settings: Any
) -> Scheduler:
    """Create another scheduler on a scheduler's noise schedule.

    As `solver.from_config(scheduler.config)`, but without the algorithm type, which is the former
    solver's: DEIS and SA-Solver would refuse it.

    Args:
        scheduler: Scheduler, or its config.
        solver: Class of the new scheduler, of diffusers.
        **settings: Settings that differ from the scheduler's.

    Examples:
        >>> from diffusers import DEISMultistepScheduler
        >>> from clip2clap import ImageToAudioPipeline
        >>> from clip2clap.inference.schedulers import replace_solver
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> pipe.scheduler = replace_solver(pipe.scheduler, DEISMultistepScheduler)
    """
    from clip2clap.core.hub import quiet

    config = dict(scheduler if isinstance(scheduler, Mapping) else cast(Any, scheduler).config)
    config.pop("algorithm_type", None)
    with quiet():
        return cast(Any, solver).from_config(config, **settings)
