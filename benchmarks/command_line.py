"""How long `clip2clap --help` takes, as a ratio to starting Python and doing nothing.

python benchmarks/command_line.py
"""

import statistics
import subprocess
import sys
import time

RUNS = 5


def seconds(*command: str) -> float:
    """Give the median time a command takes, after a first run that warms the disk's cache."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    """Time both and print them."""
    nothing = seconds(sys.executable, "-c", "pass")
    shown = seconds(sys.executable, "-m", "clip2clap", "--help")
    print(f"python -c pass      {nothing:.3f} s")
    print(f"clip2clap --help    {shown:.3f} s, {shown / nothing:.1f} times as long (limit 0.5 s)")


if __name__ == "__main__":
    main()
