"""Jobs of a batch: files, folders, patterns and tables."""

import base64
import json
import re

import pytest
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.inference.batch.jobs import Job, find_jobs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", ".hidden.jpg", "inner/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "recursive", "images"),
    [
        (["."], False, ["a.png", "b.JPG"]),
        (["."], True, ["a.png", "b.JPG", "inner/d.png"]),
        (["*.*"], False, ["a.png", "b.JPG"]),
        (["**/*.png"], False, ["a.png", "inner/d.png"]),
        (["https://example.org/e.jpg", "nowhere.jpg", "inner"], False,
         ["https://example.org/e.jpg", "nowhere.jpg", "inner/d.png"]),
    ],
)  # fmt: skip
def test_folders_and_patterns_give_their_images(folder, inputs, recursive, images):
    assert [job.image for job in find_jobs(inputs, recursive=recursive)] == images


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (["nowhere.jpg", "nowhere"], "nowhere.jpg does not exist"),
        (["empty"], "holds no image"),
        (["*.gif"], "No image matches"),
    ],
)
def test_inputs_without_an_image_are_refused(folder, inputs, words):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        list(find_jobs(inputs))


def test_a_table_gives_a_job_for_each_row_and_a_problem_for_a_bad_one(folder):
    table = folder / "inner" / "jobs.csv"
    table.write_text(
        "Image, prompt ,negative_prompt,seed,seconds\n"
        "d.png,,,,\n"
        "../a.png,,wind,7,2.5\n"
        ",a dog barks,,,\n"
        "d.png,a dog,,,\n"
        ",,,1,\n"
        "d.png,,,-1,\n"
        "d.png,,,,long\n"
        "https://example.org/e.jpg,,,,\n"
    )
    jobs = list(find_jobs([str(table)]))
    assert jobs[:3] == [
        Job(str(folder / "inner" / "d.png")),
        Job(str(folder / "inner" / "../a.png"), None, "wind", 7, 2.5),
        Job(None, "a dog barks"),
    ]
    assert [job.problem for job in jobs[3:7]] == [
        f"{table}, row 4: Expected an image or a prompt, got both.",
        f"{table}, row 5: Expected an image or a prompt, got neither.",
        f"{table}, row 6: Expected seed to be an integer from 0 to {2**63 - 1}, got '-1'.",
        f"{table}, row 7: Expected seconds to be a number above 0, got 'long'.",
    ]
    assert jobs[7] == Job("https://example.org/e.jpg")


def test_json_lines_give_the_same_jobs(folder):
    (folder / "jobs.jsonl").write_text(
        '{"image": "a.png", "seed": 7, "seconds": 2.5, "negative_prompt": null}\n'
        "[1, 2]\n"
        '{"prompt": "rain"}\n'
    )
    first, second, third = find_jobs(["jobs.jsonl"])
    assert (first, third) == (Job("a.png", seed=7, seconds=2.5), Job(prompt="rain"))
    assert second.problem is not None


def test_cells_of_a_table_are_read_as_extract_reads_them(folder):
    data = (folder / "a.png").read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    lines = [
        {"prompt": '["rain", null]', "negative_prompt": ["wind", "hail"], "seed": 2.0},
        {"image": {"bytes": None, "path": "a.png"}, "prompt": "nan", "seconds": "NaN"},
        {"image": ".\\inner\\d.png", "prompt": float("nan"), "seed": "7.0"},
        {"image": "https://example.org/e.jpg", "prompt": None},
        {"image": uri},
        {"image": " ~d.png"},
    ]
    (folder / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert list(find_jobs(["jobs.jsonl"])) == [
        Job(None, "rain", "wind", 2),
        Job("a.png"),
        Job("inner/d.png", seed=7),
        Job("https://example.org/e.jpg"),
        Job("jobs-5", content=data),
        Job("~d.png"),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": true}', "prompt: expected a caption as text, got true"),
        ('{"prompt": {"en": "rain"}}', "prompt: expected a caption as text, got a dict"),
        ('{"prompt": [["rain"]]}', "prompt: expected captions as text, got a list of list"),
        ('{"prompt": "rain", "negative_prompt": false}', "negative_prompt: .* got false"),
        ('{"prompt": "\\ud83d"}', "prompt: it is not valid UTF-8"),
        ('{"image": ["a.png"]}', "image: expected a path, an address or bytes, got a list"),
        ('{"prompt": "rain", "seed": true}', "Expected seed to be an integer .* got 'true'"),
        ('{"prompt": "rain", "seed": 2.5}', "Expected seed to be an integer .* got '2.5'"),
        ('{"prompt": "n/a", "image": ""}', "got neither"),
    ],
)
def test_cells_of_another_kind_are_a_problem_of_their_row(folder, line, words):
    (folder / "jobs.jsonl").write_text(f'{line}\n{{"prompt": "rain"}}\n')
    broken, whole = find_jobs(["jobs.jsonl"])
    assert whole == Job(prompt="rain")
    assert re.search(words, broken.problem or "")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("image,negativ_prompt", "negativ_prompt.*Did you mean negative_prompt?"),
        ("image,zebra", "zebra.*Expected image, prompt, negative_prompt, seed, seconds"),
        ("seed,seconds", "neither a column image nor prompt"),
    ],
)
def test_other_columns_are_refused(folder, columns, words):
    (folder / "jobs.csv").write_text(f"{columns}\nx,y\n")
    with pytest.raises(UserError, match=words):
        list(find_jobs(["jobs.csv"]))
