"""The default solver, for few denoising steps."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from diffusers import DPMSolverMultistepScheduler
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from clip2clap.inference.loading.generator import quietly


def few_step_scheduler(
    scheduler: SchedulerMixin | Mapping[str, Any],
    *,
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++",
) -> DPMSolverMultistepScheduler:
    """Make the default solver, DPM-Solver++ of second order, for a checkpoint's noise schedule.

    See Lu et al. (2022), arXiv 2211.01095. The checkpoint's betas and what its UNet predicts are
    kept; the steps begin at the noisiest timestep, which the leading spacing of AudioLDM's own
    DDIM leaves out, and end at no noise at all.

    Args:
        scheduler: The checkpoint's own scheduler, or its config.
        algorithm_type: diffusers' name of the solver; `"sde-dpmsolver++"` adds noise at each step.

    Returns:
        A scheduler for 10 to 20 steps (what they cost in accuracy stands in docs/pipelines.md).
    """
    config = scheduler if isinstance(scheduler, Mapping) else cast(ConfigMixin, scheduler).config
    with quietly():
        made = DPMSolverMultistepScheduler.from_config(
            dict(config),
            algorithm_type=algorithm_type,
            solver_order=2,
            timestep_spacing="linspace",
            final_sigmas_type="zero",
        )
    return cast(DPMSolverMultistepScheduler, made)
