"""Time of fitting ridge and Procrustes, compared with scikit-learn and SciPy on the same pairs.

python benchmarks/linear_maps.py
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge
from timing import seconds

from clip2clap.core.math import unit_norm
from clip2clap.translator.linear import LinearFitter


def main(
    pairs: Annotated[int, typer.Option(help="Pairs.")] = 50_000,
    dim: Annotated[int, typer.Option(help="Embedding dimension.")] = 512,
    threads: Annotated[int, typer.Option(help="Threads of torch and of BLAS.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
) -> None:
    """Time each and print the best times."""
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    source = unit_norm(torch.randn(pairs, dim, generator=generator))
    target = unit_norm(source @ torch.randn(dim, dim, generator=generator) / dim**0.5 + 0.1)
    x, y = source.double().numpy(), target.double().numpy()
    jobs: dict[str, Callable[[], Any]] = {
        "ridge, ours": lambda: LinearFitter().update(source, target).ridge(),
        "Procrustes, ours": lambda: LinearFitter().update(source, target).procrustes(),
        "ridge, scikit-learn": lambda: Ridge(solver="cholesky").fit(x, y),
        "Procrustes, SciPy": lambda: orthogonal_procrustes(x - x.mean(0), y - y.mean(0)),
    }
    with threadpool_limits(threads):
        times = {name: min(seconds(job) for _ in range(rounds)) for name, job in jobs.items()}
    print(f"{pairs:,} pairs of {dim} values, {threads} threads")
    for name, taken in times.items():
        print(f"{name:22} {taken:7.2f} s")
    for ours, theirs in (
        ("ridge, ours", "ridge, scikit-learn"),
        ("Procrustes, ours", "Procrustes, SciPy"),
    ):
        print(f"{ours} takes {times[ours] / times[theirs]:.2f} of {theirs}'s time (goal: < 3 s)")


if __name__ == "__main__":
    typer.run(main)
