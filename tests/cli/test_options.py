"""Options of all verbs: one name has one help text, type and default."""

import functools
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

from clip2clap.cli.app import VERBS
from clip2clap.cli.command import KEY, add_verb, declared_options, flag_of, name_options
from clip2clap.cli.options.common import Overwrite
from clip2clap.cli.options.training import Grid, Train
from clip2clap.core.errors import UserError
from clip2clap.training.config import TrainingConfig

HEAVY = ("torch", "transformers", "diffusers", "datasets", "matplotlib", "scipy")


def test_one_option_has_one_help_text_type_and_default_in_all_verbs():
    declared: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    grid = {each.name: flag_of(each) for each in fields(Grid)}
    for verb in VERBS:
        for each in declared_options(verb).values():
            info = each.metadata[KEY]
            # A grid takes lists of what train takes, which have its help texts.
            is_list = verb.__name__ == "sweep" and each.name in grid
            if "settings" in info:
                kind = ("any",) if is_list else (str(each.type), each.default)
                declared[flag_of(each)].add((info["settings"]["help"], *kind))
    for flag, found in declared.items():
        assert len({help_text for help_text, *_ in found}) == 1, flag
        assert len(found) == (2 if flag in grid.values() else 1), (flag, found)


def test_training_options_are_fields_of_the_config_with_its_defaults():
    config = {each.name: each.default for each in fields(TrainingConfig)}
    others = {*(each.name for each in fields(Overwrite)), "table", "target_table"} | {
        "device",
        "recipe",
    }
    for each in fields(Train):
        if each.name in others:
            continue
        assert each.name in config
        stated = re.search(r"Default (\S+)\.$", each.metadata[KEY]["settings"]["help"])
        if stated is not None:
            default: Any = config[each.name]
            default = "no" if default is False else default
            assert stated[1] == str(default), each.name


@pytest.mark.parametrize(
    ("message", "param", "shown"),
    [
        (
            "Expected epochs to be 1 or more, got 0.",
            "epochs",
            "--epochs: expected 1 or more, got 0.",
        ),
        ('Use architecture="ridge".', None, "Use --architecture ridge."),
        ("The table has no rows.", "table", "TABLE: The table has no rows."),
        ("Give another folder, or overwrite=True.", None, "Give another folder, or --overwrite."),
        ("Give output=..., please.", None, "Give --output PATH, please."),
        ('Use source="a b".', None, "Use --source 'a b'."),
    ],
)
def test_an_error_of_the_library_names_the_options_of_the_verb(message, param, shown):
    train = next(verb for verb in VERBS if verb.__name__ == "train")
    error = UserError(message, param=param)
    assert name_options(error, declared_options(train).values()) == shown


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["--seconds", "-1"], "--duration-s"),
        (["--model=nowhere-at-all"], "--generator"),
        (["--candidates", "0"], "--num-candidates"),
    ],
)
def test_an_old_spelling_is_accepted_with_a_notice(run, tmp_path: Path, old, new):
    (tmp_path / "image.png").touch()
    status, _, said = run("image-to-audio", tmp_path / "image.png", *old)
    assert status == 2
    notice, error = said.splitlines()
    spelling = old[0].partition("=")[0]
    assert notice == f"note: {spelling} is now {new}; the next version drops the old spelling."
    assert error.startswith(f"error: {new}: ")


OLD_SPELLINGS = [
    ("norms", "table --out x", "--output", "output", Path("x")),
    ("image-to-audio", "--model demo", "--generator", "generator", "demo"),
    ("image-to-audio", "--steps 3", "--num-inference-steps", "num_inference_steps", 3),
    ("image-to-audio", "--seconds 2.5", "--duration-s", "duration_s", 2.5),
    ("image-to-audio", "--candidates=3", "--num-candidates", "num_candidates", 3),
    ("image-to-audio", "--format flac", "--audio-format", "audio_format", "flac"),
    ("audio-to-image", "--model x", "--decoder", "decoder", "x"),
    ("audio-to-image", "--format jpg", "--image-format", "image_format", "jpg"),
    ("audio-to-image", "--start 1.5", "--start-s", "start_s", 1.5),
    ("audio-to-image", "--names words.txt", "--label-file", "label_file", Path("words.txt")),
    ("audio-to-image", "--images 4", "--num-images", "num_images", 4),
    ("audio-to-image", "--image a.png", "--init-image", "init_image", "a.png"),
    ("audio-to-image", "--init a.png", "--init-image", "init_image", "a.png"),
    ("audio-to-image", "--size 64x32", "--film-size", "film_size", "64x32"),
    ("paint", "--text dog:2", "--target-text", "target_text", ["dog:2"]),
    ("paint", "--sound a.wav:2", "--target-audio", "target_audio", ["a.wav:2"]),
    ("paint", "--image a.png:2", "--target-image", "target_image", ["a.png:2"]),
    ("paint", "--init a.png", "--init-image", "init_image", "a.png"),
    ("paint", "--iterations 9", "--num-iterations", "num_iterations", 9),
    ("extract", "photos --format folder", "--source-format", "source_format", "folder"),
    ("train", "table --from clap", "--source", "source", "clap"),
    ("train", "table --to clip", "--target", "target", "clip"),
    ("train", "table --model ridge", "--architecture", "architecture", "ridge"),
    ("train", "table --hidden 8", "--hidden-size", "hidden_size", 8),
    ("train", "table --centre", "--center yes", "center", "yes"),
    ("train", "table --no-centre", "--center no", "center", "no"),
    ("train", "table --start random", "--init", "init", "random"),
    ("train", "table --lr 0.1", "--learning-rate", "learning_rate", 0.1),
    ("sweep", "table --hidden 4,8", "--hidden-size", "hidden_size", "4,8"),
    ("sweep", "table --seeds 1,2", "--seed", "seed", "1,2"),
    ("sweep", "table --centre no,yes", "--center", "center", "no,yes"),
    ("evaluate", "demo --images a", "--image-dir", "image_dir", Path("a")),
    ("evaluate", "demo --recordings a", "--audio-dir", "audio_dir", Path("a")),
    ("evaluate", "demo --labels kind", "--label-column", "label_column", "kind"),
    ("evaluate", "demo --judge x", "--classifier", "classifier", "x"),
]


def old_spelling(arguments: str) -> str:
    return re.findall(r"--[a-z-]+", arguments)[0]


@pytest.mark.parametrize(("name", "arguments", "new", "field", "value"), OLD_SPELLINGS)
def test_an_old_spelling_sets_the_new_option_with_one_notice(
    capsys, name, arguments, new, field, value
):
    verb: Any = next(verb for verb in VERBS if verb.__name__ == name.replace("-", "_"))
    received: dict[str, Any] = {}

    @functools.wraps(verb)
    def record(options: Any) -> None:
        received.update(vars(options))

    app = typer.Typer()
    add_verb(app, record)
    command: Any = typer.main.get_command(app)
    command.main(arguments.split(), prog_name=name, standalone_mode=False)
    old = old_spelling(arguments)
    assert received[field] == value
    notice = f"note: {old} is now {new}; the next version drops the old spelling.\n"
    assert capsys.readouterr() == ("", notice)
    assert old not in {spelling for each in command.params for spelling in each.opts}


def test_every_old_spelling_is_tested():
    tested = {(old_spelling(given), new.split()[0]) for _, given, new, *_ in OLD_SPELLINGS}
    declared = {
        (spelling.partition("=")[0], flag_of(each))
        for verb in VERBS
        for each in declared_options(verb).values()
        for spelling in each.metadata[KEY].get("was", ())
    }
    assert tested == declared


MISTAKES = [
    "train absent",
    "norms absent",
    "sweep absent",
    "demo absent.jpg",
    "image-to-audio absent.jpg",
    "image-to-audio . --prompt rain",
    "image-to-audio --prompt rain --generator demoo",
    "image-to-audio --prompt rain --num-inference-steps 0",
    "image-to-audio --prompt rain --device gpu",
    "audio-to-image absent.wav",
    "paint absent.wav",
    "audio-to-image --mix absent.wav:1 --mix other.wav:1",
    "paint --target-audio absent.wav:1",
    "paint --target-image absent.png:1",
    "extract absent.csv --pair image-caption",
    "extract ./absent --pair image-caption",
    "extract . --pair image-audio --audio absent",
    "extract . --pair image-audio --only clip --pair-with absent",
    "fit --dataset absent.tsv",
    "train . --init-from absent",
    "sweep . --plus absent",
    "evaluate absent --table .",
    "evaluate demo --table . --pipeline demo --back absent",
    "doctor absent",
    "benchmark esc50 absent",
    "finetune absent",
    "import-translator absent.pth",
    "extract audiocaps --clip clip-vit-base-patch3",
    "fit --captions absent.csv",
    "evaluate demo --table absent",
    "train . --hidden-size 0",
    "index absent",
    "search absent rain",
    "search . absent.jpg",
]
# Each is answered in a fork of one interpreter that has imported the command and nothing else.
ANSWER = f"""
import json, os, sys
from clip2clap.cli.app import main
answers = {{}}
for number, mistake in enumerate({MISTAKES!r}):
    if not os.fork():
        os.dup2(os.open(f"{{number}}.txt", os.O_WRONLY | os.O_CREAT), 2)
        try:
            main(mistake.split())
        except SystemExit as ended:
            sys.stderr.flush()
            os._exit(1 if set({HEAVY!r}) & set(sys.modules) else ended.code)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.wait()[1])
    answers[mistake] = status, open(f"{{number}}.txt").read()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code of each mistake, 1 if heavy libraries were loaded, and what stderr had."""
    folder = tmp_path_factory.mktemp("mistakes")
    command = [sys.executable, "-c", ANSWER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_without_heavy_libraries(
    mistake: str, answers: dict[str, tuple[int, str]]
):
    status, complaint = answers[mistake]
    assert status == 2, complaint
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert ("absent" in complaint) == ("absent" in mistake)


def test_completion_is_installed_and_gives_options_and_their_values(tmp_path: Path):
    def run(*arguments: str, **settings: str) -> str:
        environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash", **settings}
        command = [sys.executable, "-m", "clip2clap", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        )
        return done.stdout

    run("--install-completion", "bash")
    script = tmp_path / ".bash_completions" / "clip2clap.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    assert "_CLIP2CLAP_COMPLETE=complete_bash" in script.read_text()
    for words, expected in (
        ("clip2clap image-to-audio --gen", ["--generator"]),
        ("clip2clap train --architecture ri", ["ridge"]),
    ):
        settings = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        assert run(**settings, _CLIP2CLAP_COMPLETE="complete_bash").split() == expected
