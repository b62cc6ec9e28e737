"""The queue: places, limits, cancellation, clients that go away, and the end of the server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from clip2clap.media.audio import load_audio
from clip2clap.web.limits import Limits

from .conftest import serving

META = {"_type": "gradio.FileData"}
LONG = {"seconds": 3.0, "steps": 100}


class User:
    """One browser: a session that runs `/image_to_audio` as pages do."""

    def __init__(self, server, name, photograph):
        self.http = httpx.Client(base_url=server.url, timeout=60)
        self.name = name
        fns = self.http.get("/config").json()["dependencies"]
        (self.function,) = (fn["id"] for fn in fns if fn["api_name"] == "image_to_audio")
        sent = self.http.post("/gradio_api/upload", files={"files": ("a.jpg", photograph)})
        self.image = {"path": sent.json()[0], "meta": META}

    def join(self, seconds=1.0, steps=1, seed=0):
        data = [self.image, None, seconds, 1, None, seed, steps]
        body = {"data": data, "fn_index": self.function, "session_hash": self.name}
        return self.http.post("/gradio_api/queue/join", json=body)

    def messages(self):
        """Yield what the session is told."""
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.name}
        ) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    def result(self, event=None):
        """Wait for the run, and return its waveform, and the places in line it was told."""
        places = []
        for message in self.messages():
            if message["msg"] == "estimation":
                places.append(message["rank"])
            of_other = event is not None and message.get("event_id") != event
            if message["msg"] == "process_completed" and not of_other:
                assert message["success"], message
                path = message["output"]["data"][0][0]["path"]
                audio = self.http.get(f"/gradio_api/file={path}").content
                return load_audio(audio)[0], places
        raise AssertionError("the run never ended")

    def cancel(self, event):
        body = {"session_hash": self.name, "fn_index": self.function, "event_id": event}
        return self.http.post("/gradio_api/cancel", json=body)


@pytest.fixture
def photo(photograph):
    return photograph.read_bytes()


def until(condition):
    """Wait for what another thread brings about."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_each_of_many_users_gets_the_result_of_its_own_seed_and_its_place(server, photo, models):
    users = [User(server, f"many-{number}", photo) for number in range(5)]

    def use(number):
        assert users[number].join(seed=number).status_code == 200
        return users[number].result()

    with ThreadPoolExecutor(5) as pool:
        results = list(pool.map(use, range(5)))
    # The server's batches depend on its memory, and candidates' rounding on the batches.
    candidates = models.image_to_audio(
        [photo] * 5,
        audio_length_in_s=1.0,
        num_inference_steps=1,
        generator=list(range(5)),
        num_variations=4,
        num_candidates=4,
    ).audios
    for number, (audio, _) in enumerate(results):
        distances = [np.abs(audio - np.asarray(each))[200:-200].max() for each in candidates]
        assert np.argmin(distances) // 4 == number
    assert max(place for _, places in results for place in places) >= 1


def test_a_session_has_one_run_at_a_time(server, photo):
    user = User(server, "eager", photo)
    event = user.join(**LONG).json()["event_id"]
    refused = user.join()
    assert refused.status_code == 429
    assert "Wait for it, or cancel it" in refused.json()["detail"]
    user.cancel(event)
    # The place is free at once, though a worker is not before the step ends.
    joined = user.join()
    assert joined.status_code == 200
    assert len(user.result(joined.json()["event_id"])[0]) == 16_000


def test_cancelling_ends_the_run_within_a_step_and_no_other(server, photo):
    first, other = User(server, "first", photo), User(server, "other", photo)
    event = first.join(**LONG).json()["event_id"]
    runs = server.service.workers._runs
    until(lambda: any(run.share for run in runs))
    (run,) = runs
    assert other.join().status_code == 200
    first.cancel(event)
    assert len(other.result()[0]) == 16_000
    assert run.share < 0.5


def test_a_client_that_goes_away_frees_its_place(server, photo):
    user = User(server, "away", photo)
    user.join(**LONG)
    messages = user.messages()
    assert next(messages)
    runs = server.service.workers._runs
    until(lambda: any(run.share for run in runs))
    messages.close()
    until(lambda: not runs)


def test_no_more_users_wait_than_are_allowed_and_the_end_removes_everything(models, photo):
    with serving(models, Limits(max_users=1)) as server:
        users = [User(server, f"user-{number}", photo) for number in range(3)]
        events = [users[0].join(**LONG).json()["event_id"]]
        until(lambda: server.service.workers._runs)
        assert users[1].join().status_code == 200
        full = users[2].join()
        assert full.status_code == 503
        assert "full" in full.json()["detail"]
        assert events
        root = server.service.folders.root
        assert root.exists()
    # The server ended in the middle of a run.
    assert not root.exists()
    assert not server.service.workers._runs
