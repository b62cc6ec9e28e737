"""Default scheduler, for few denoising steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler
    from diffusers.schedulers.scheduling_utils import SchedulerMixin


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

    from clip2clap.core.hub import quiet

    config = scheduler if isinstance(scheduler, Mapping) else cast(Any, scheduler).config
    with quiet():
        solver = DPMSolverMultistepScheduler.from_config(
            dict(config),
            algorithm_type=algorithm_type,
            solver_order=2,
            timestep_spacing="linspace",
            final_sigmas_type="zero",
        )
    return cast(DPMSolverMultistepScheduler, solver)
