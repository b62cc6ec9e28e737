"""Serve clients at once for some minutes: none lost, none with another's result, memory flat.

    python benchmarks/serve.py --clients 20 --minutes 5

Each client uploads an image, joins the queue as a page does, reads its place in line, and compares
the audio with that of its own seed, which is generated here first. Every tenth run goes away.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from itertools import combinations

import httpx
import numpy as np
import psutil
import torch

from clip2clap import ImageToAudioPipeline
from clip2clap.core.math import unit_norm
from clip2clap.media.audio import load_audio

SECONDS, STEPS, CANDIDATES = 1.0, 1, 4
AWAY = 0.1
# Rounding may rank a seed's candidates otherwise, and shift phases; other seeds' are uncorrelated.
ALIKE = 0.7
META = {"_type": "gradio.FileData"}


def start() -> tuple[subprocess.Popen, str]:
    """Start a server in a process of its own, and return its address."""
    command = ["-m", "clip2clap", "serve", "--port", "0", "--no-browser", "--max-users", "40"]
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://\S+", process.stderr.readline())
    assert found is not None
    return process, found[0]


def use(url: str, client: int, image: bytes, expected: list, end: float) -> Counter:
    """Use the server as one client until a time, and count what came of it."""
    counts, chance = Counter(), random.Random(client)
    with httpx.Client(base_url=url, timeout=600) as http:
        functions = http.get("/config").json()["dependencies"]
        (function,) = (each["id"] for each in functions if each["api_name"] == "image_to_audio")
        for number in range(10**6):
            if time.monotonic() > end:
                return counts
            seed, session = chance.randrange(len(expected)), f"client-{client}-{number}"
            sent = http.post("/gradio_api/upload", files={"files": ("a.png", image)}).json()[0]
            data = [{"path": sent, "meta": META}, None, SECONDS, 1, None, seed, STEPS]
            body = {"data": data, "fn_index": function, "session_hash": session}
            joined = http.post("/gradio_api/queue/join", json=body)
            if joined.status_code != 200:
                counts["refused"] += 1
                time.sleep(1)
                continue
            came = follow(http, session, expected, seed, away=chance.random() < AWAY)
            counts[came] += 1
    return counts


def follow(http: httpx.Client, session: str, expected: list, seed: int, *, away: bool) -> str:
    """Read what a session is told, and return what came of its run."""
    was_placed = False
    with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            message = json.loads(line[6:])
            was_placed |= message["msg"] == "estimation"
            if away and message["msg"] == "process_starts":
                return "went away"
            if message["msg"] == "process_completed":
                if not message["success"]:
                    return "failed"
                path = message["output"]["data"][0][0]["path"]
                break
        else:
            return "lost"
    audio = load_audio(http.get(f"/gradio_api/file={path}").content)[0]
    cosines = [np.max(each @ audio / np.linalg.norm(audio)) for each in expected]
    if cosines[seed] < ALIKE:
        return "another's" if max(cosines) >= ALIKE else "nobody's"
    return "right" if was_placed else "without a place"


def main() -> None:
    """Measure, and print what came of the runs and how memory grew."""
    parser = argparse.ArgumentParser(description="Serve clients at once for some minutes.")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    image = (resources.files("skimage.data") / "chelsea.png").read_bytes()
    pipe = ImageToAudioPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    call = {"audio_length_in_s": SECONDS, "num_inference_steps": STEPS}
    call["num_variations"] = CANDIDATES
    outputs = [pipe(image, generator=[seed], **call) for seed in range(8)]
    # Every candidate of a seed, each of norm 1.
    expected = [unit_norm(torch.from_numpy(output.audios)).numpy() for output in outputs]
    assert all(np.abs(a @ b.T).max() < ALIKE for a, b in combinations(expected, 2))
    process, url = start()
    memory, began = [], time.monotonic()
    end = began + 60 * options.minutes
    try:
        with ThreadPoolExecutor(options.clients) as pool:
            runs = [
                pool.submit(use, url, client, image, expected, end)
                for client in range(options.clients)
            ]
            while not all(run.done() for run in runs):
                rss = psutil.Process(process.pid).memory_info().rss
                memory.append((time.monotonic() - began, rss / 2**20))
                time.sleep(2)
            counts = sum((run.result() for run in runs), Counter())
        health = httpx.get(f"{url}/healthz").json()
    finally:
        process.terminate()
        process.wait()
    total = sum(counts.values())
    print(f"{options.clients} clients, {options.minutes:g} minutes: {total} runs,", dict(counts))
    print("waiting at the end:", health["waiting"])
    first = [rss for at, rss in memory if at <= 60]
    later = [rss for at, rss in memory if at > 60] or first
    print(
        f"memory: {first[-1]:.0f} MB after a minute, later {statistics.median(later):.0f} MB in "
        f"the median and {max(later):.0f} MB at most ({max(later) / first[-1] - 1:+.1%})"
    )


if __name__ == "__main__":
    main()
