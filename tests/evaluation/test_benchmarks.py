"""Benchmarks in their published layouts: folders, protocols, metrics, the command."""

import csv
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap import ClapEncoder
from clip2clap.core.errors import UserError
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.evaluation.benchmarks import folders
from clip2clap.evaluation.benchmarks.classification import Classification
from clip2clap.evaluation.benchmarks.fine_tuning import fine_tuned_scores
from clip2clap.evaluation.benchmarks.folders import Clip, read_benchmark
from clip2clap.evaluation.benchmarks.protocols import PROTOCOLS, PUBLISHED, choose_protocols
from clip2clap.evaluation.benchmarks.retrieval import measure_caption_retrieval
from clip2clap.evaluation.benchmarks.run import BenchmarkConfig, run_benchmark
from clip2clap.training.finetuning.config import FineTuningConfig

RATE = 16_000
ESC50 = ("dog", "sea_waves")


@pytest.fixture(scope="module")
def clap() -> ClapEncoder:
    return ClapEncoder.from_pretrained("demo")


def write_clip(path: Path, label: int, number: int) -> None:
    """Write a low tone for label 0 and noise for label 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([label, number])
    tone = np.sin(2 * np.pi * (200 + 20 * number) * np.arange(RATE // 2) / RATE)
    waveform = 0.3 * tone if label == 0 else rng.uniform(-0.5, 0.5, RATE // 2)
    soundfile.write(path, waveform, RATE)


@pytest.fixture
def esc50(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ESC-50's layout with two labels and four clips in each of its five folds."""
    rows = []
    for fold in range(1, 6):
        for number in range(4):
            label = number % 2
            name = f"{fold}-{100 + number // 2}-{'AB'[number // 2]}-{label}.wav"
            write_clip(tmp_path / "ESC-50/audio" / name, label, 10 * fold + number)
            recording = f"{fold}{number // 2}"
            rows.append([name, fold, label, ESC50[label], "True", recording, "A"])
    (tmp_path / "ESC-50/meta").mkdir()
    with (tmp_path / "ESC-50/meta/esc50.csv").open("w", newline="") as file:
        head = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
        csv.writer(file).writerows([head, *rows])
    layout = replace(folders.LAYOUTS["esc50"], labels=2, fold_sizes=dict.fromkeys(range(1, 6), 4))
    monkeypatch.setitem(folders.LAYOUTS, "esc50", layout)
    return tmp_path / "ESC-50"


@pytest.fixture
def us8k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """UrbanSound8K's layout with two labels and two clips in each of its ten folds."""
    rows = []
    for fold in range(1, 11):
        for label, name in enumerate(("air_conditioner", "siren")):
            file = f"{fold}{label}-{label}-0-0.wav"
            write_clip(tmp_path / f"US8K/audio/fold{fold}" / file, label, fold)
            rows.append([file, f"{fold}{label}", 0, 0.5, 1, fold, label, name])
    (tmp_path / "US8K/metadata").mkdir()
    with (tmp_path / "US8K/metadata/UrbanSound8K.csv").open("w", newline="") as file:
        head = ["slice_file_name", "fsID", "start", "end", "salience", "fold", "classID", "class"]
        csv.writer(file).writerows([head, *rows])
    layout = replace(folders.LAYOUTS["us8k"], labels=2, fold_sizes=dict.fromkeys(range(1, 11), 2))
    monkeypatch.setitem(folders.LAYOUTS, "us8k", layout)
    return tmp_path / "US8K"


@pytest.fixture
def clotho(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clotho's layout with three clips."""
    folder = tmp_path / "clotho"
    columns = ["file_name", *(f"caption_{number}" for number in range(1, 6))]
    rows = []
    for number in range(3):
        write_clip(folder / "evaluation" / f"{number}.wav", number % 2, number)
        rows.append([f"{number}.wav", *(f"caption {number} {one}" for one in range(5))])
    with (folder / "clotho_captions_evaluation.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    monkeypatch.setitem(folders.LAYOUTS, "clotho", replace(folders.LAYOUTS["clotho"], clips=3))
    return folder


def test_official_folds_and_sizes_are_those_that_are_published():
    layouts = {name: folders.LAYOUTS[name] for name in ("esc50", "us8k")}
    sizes = {name: dict(vars(layout)["fold_sizes"]) for name, layout in layouts.items()}
    assert sum(sizes["esc50"].values()) == 2000
    assert sum(sizes["us8k"].values()) == 8732
    assert (len(sizes["esc50"]), len(sizes["us8k"])) == (5, 10)


def test_folds_labels_and_recordings_are_read_from_the_data_sets_own_files(esc50, us8k):
    found = read_benchmark("esc50", esc50)
    assert (found.labels, found.folds, len(found.clips)) == (ESC50, [1, 2, 3, 4, 5], 20)
    assert {clip.fold: clip.item for clip in found.clips}[3] == "31"
    assert all(clip.path.parent.name == "audio" for clip in found.clips)
    found = read_benchmark("us8k", us8k)
    assert (found.labels, found.folds) == (("air_conditioner", "siren"), list(range(1, 11)))
    assert all(clip.path.parent.name == f"fold{clip.fold}" for clip in found.clips)


def test_an_incomplete_folder_is_refused_with_what_is_missing(esc50, us8k, clotho):
    (esc50 / "audio/2-100-A-0.wav").unlink()
    with pytest.raises(UserError, match=r"1 audio files are missing: audio/2-100-A-0\.wav"):
        read_benchmark("esc50", esc50)
    found = read_benchmark("esc50", esc50, partial=True)
    assert len(found.clips) == 19
    assert "missing" in found.lacking
    table = us8k / "metadata/UrbanSound8K.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if not line.startswith("70")) + "\n")
    with pytest.raises(UserError, match="1 of 2 clips of fold 7"):
        read_benchmark("us8k", us8k)
    (clotho / "evaluation/1.wav").unlink()
    with pytest.raises(UserError, match=r"missing: 1\.wav"):
        read_benchmark("clotho", clotho)
    with pytest.raises(UserError, match=r"meta/esc50\.csv is missing"):
        read_benchmark("esc50", us8k)


def test_a_damaged_table_is_refused_with_its_line(esc50):
    table = esc50 / "meta/esc50.csv"
    table.write_text(table.read_text().replace("dog", "cat", 1))
    with pytest.raises(UserError, match=r"Line 4 .* is damaged"):
        read_benchmark("esc50", esc50)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("laion", "This is a sound of sea waves"),
        ("transformers", "This is a sound of sea waves."),
        ("mteb", "This is a sound of sea_waves"),
        ("msclap", "this is the sound of sea waves"),
        ("audioclip", "sea waves"),
        ("clip2clap", "the sound of a sea waves"),
    ],
)
def test_the_prompts_of_a_protocol_are_those_of_its_source(name, prompt):
    assert PROTOCOLS[name].prompts("esc50", ESC50)[1] == prompt
    assert "_" not in PROTOCOLS[name].prompts("us8k", ["dog_bark"])[0]


def test_published_results_name_a_protocol_and_a_source():
    accuracies = {(row.model, row.method): row.accuracy for row in PUBLISHED["esc50"]}
    assert accuracies["AudioCLIP", "zero-shot"] == 69.40
    for row in (*PUBLISHED["esc50"], *PUBLISHED["us8k"]):
        assert row.protocol
        assert row.source
        assert 0 < row.accuracy < 100
    assert choose_protocols(["mteb", "all"])[0].name == "mteb"
    assert len(choose_protocols(["all"])) == len(PROTOCOLS)


def test_zero_shot_equals_the_pipeline_of_transformers_under_its_protocol(clap, esc50, tmp_path):
    from transformers import AutoFeatureExtractor, AutoModel, AutoTokenizer
    from transformers import ZeroShotAudioClassificationPipeline as Pipeline

    from clip2clap.core.presets import resolve

    folder = resolve("demo", "clap")
    pipeline = Pipeline(
        model=AutoModel.from_pretrained(folder),
        feature_extractor=AutoFeatureExtractor.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )
    benchmark = read_benchmark("esc50", esc50)
    config = BenchmarkConfig(choose_protocols(["transformers"]))
    run_benchmark(benchmark, clap, tmp_path / "out", config)
    rows = list(csv.DictReader((tmp_path / "out/predictions.csv").open()))
    words = [label.replace("_", " ") for label in ESC50]
    for clip, row in zip(benchmark.clips[:6], rows, strict=False):
        scores = pipeline(soundfile.read(clip.path)[0], candidate_labels=words)
        assert row["clip"] == clip.id
        assert scores[0]["label"] == row["predicted"].replace("_", " ")


def clusters(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Embeddings near one of 12 directions, their labels, and four folds."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(12).repeat(16)
    centers = torch.randn(12, 32, generator=generator)
    embeds = centers[labels] + torch.randn(len(labels), 32, generator=generator)
    return embeds, labels, [1 + place // 48 for place in range(len(labels))]


def test_a_linear_probe_learns_and_its_shuffled_control_does_not():
    embeds, labels, folds = clusters()
    clips = Classification(labels, folds, range(len(labels)), num_labels=12, resamples=200)
    found = clips.linear_probe(embeds)
    assert found.accuracy.value > 0.9
    assert found.shuffled.low < found.chance < found.shuffled.high
    assert set(found.folds) == {1, 2, 3, 4}
    assert np.mean(list(found.folds.values())) == pytest.approx(found.mean_of_folds)


def test_a_linear_probe_never_sees_the_labels_of_its_test_fold():
    embeds, labels, folds = clusters()
    changed = torch.where(torch.tensor(folds) == 2, (labels + 1) % 12, labels)
    options: dict[str, Any] = {"num_labels": 12, "resamples": 100}
    one = Classification(labels, folds, range(len(labels)), **options).linear_probe(embeds)
    other = Classification(changed, folds, range(len(labels)), **options).linear_probe(embeds)
    tested = np.array(folds) == 2
    assert (one.predicted[tested] == other.predicted[tested]).mean() > 0.98
    assert other.folds[2] < 0.1


def test_fine_tuning_by_folds_never_sees_the_labels_of_its_test_fold(musicldm_folder, tmp_path):
    clap, clips = ClapEncoder.from_pretrained(musicldm_folder), []
    for fold in (1, 2, 3):
        for number in range(6):
            path = tmp_path / f"{fold}-{number}.wav"
            write_clip(path, number % 2, 10 * fold + number)
            clips.append(Clip(path.name, path, f"{fold}{number}", fold, number % 2))
    # Labels that the encoder does not know, so that it has to learn them.
    labels, config = (
        ("alpha", "omega"),
        FineTuningConfig(epochs=3, learning_rate=3e-3, batch_size=4),
    )
    before = clap.space("audio")
    scores, epochs = fine_tuned_scores(clap, clips, labels, tmp_path / "one", config)
    assert clap.space("audio") == before
    assert sorted(epochs) == [1, 2, 3]
    targets = torch.tensor([clip.label for clip in clips])
    assert (scores.argmax(1) == targets).float().mean() > 0.8
    # With other labels in fold 1, its own scores are the same, and those of the others are not.
    wrong = [replace(clip, label=1 - clip.label) if clip.fold == 1 else clip for clip in clips]
    changed, _ = fine_tuned_scores(clap, wrong, labels, tmp_path / "other", config)
    torch.testing.assert_close(changed[:6], scores[:6])
    assert not torch.allclose(changed[6:], scores[6:], atol=1e-3)
    # Finished folds are read again, and those of other settings refused.
    again, _ = fine_tuned_scores(clap, clips, labels, tmp_path / "one", config)
    torch.testing.assert_close(again, scores)
    with pytest.raises(UserError, match="with other settings"):
        fine_tuned_scores(clap, clips, labels, tmp_path / "one", replace(config, epochs=2))


def test_the_command_fine_tunes_by_folds(run, esc50, musicldm_folder, tmp_path):
    output = tmp_path / "report"
    options = ("--encoder", musicldm_folder, "--fine-tune", "head", "--epochs", 1, "--json")
    code, out, error = run("benchmark", "esc50", esc50, *options, "-o", output)
    assert code == 0, error
    tuned = json.loads(out)["results"]["results"][-1]
    assert (tuned["method"], tuned["protocol"]) == ("fine-tuned", "5 folds")
    assert tuned["settings"]["fine_tuning"]["part"] == "head"
    names = sorted(path.name for path in (output / "fine-tuned").iterdir())
    assert names == [f"fold-{fold}" for fold in range(1, 6)]


def test_zero_shot_counts_top_5_confusions_and_recordings():
    embeds, labels, folds = clusters()
    centers = torch.stack([embeds[labels == label].mean(0) for label in range(12)])
    alone = Classification(labels, folds, range(len(labels)), num_labels=12)
    grouped = Classification(labels, folds, labels.tolist(), num_labels=12)
    found, of_few = (c.zero_shot(embeds, centers, protocol="x") for c in (alone, grouped))
    confusion = torch.tensor(found.confusion)
    assert confusion.diagonal().sum() / len(labels) == pytest.approx(found.accuracy.value)
    assert confusion.sum(1).tolist() == [16] * 12
    assert found.top_5 is not None
    assert found.top_5.value >= found.accuracy.value
    # Clips of one recording are no independent trials.
    widths = [one.accuracy.high - one.accuracy.low for one in (found, of_few)]
    assert widths[1] > widths[0]
    assert found.shuffled.value < 0.25


def test_accuracy_on_unseen_folds_leaves_out_what_the_encoder_was_trained_on():
    labels = torch.arange(4).repeat(10)
    folds = [1] * 20 + [2] * 20
    wrong = torch.where(torch.tensor(folds) == 2, (labels + 1) % 4, labels)
    clips = Classification(labels, folds, range(40), num_labels=4, seen_folds=[1])
    found = clips.zero_shot(torch.eye(4)[wrong], torch.eye(4), protocol="x")
    assert found.unseen is not None
    assert (found.accuracy.value, found.unseen.value) == (0.5, 0.0)


def test_caption_retrieval_has_the_values_that_are_counted_by_hand():
    # Two clips with two captions each. Caption 1 is nearer to the other clip.
    audio = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.0, 1.0], [0.2, 1.0]])
    to_audio, to_text = measure_caption_retrieval(audio, text, [0, 0, 1, 1], resamples=100)
    assert to_audio.metrics["recall_at_1"].value == 0.75
    assert to_audio.metrics["map_at_10"].value == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    # Clip 0 finds captions 0, 3, 1, 2: right at ranks 1 and 3; clip 1 finds 2, 1 or 3 next.
    assert to_text.metrics["recall_at_1"].value == 1
    first, second = (1 + 2 / 3) / 2, (1 + 2 / 3) / 2
    assert to_text.metrics["map_at_10"].value == pytest.approx((first + second) / 2)
    assert to_audio.shuffled["recall_at_1"].value == 0.25


def test_the_command_writes_a_page_json_and_predictions(run, esc50, tmp_path):
    arguments = ("--protocol", "laion", "--protocol", "mteb", "--linear-probe", "--json")
    output = tmp_path / "report"
    code, out, error = run("benchmark", "esc50", esc50, *arguments, "-o", output)
    assert code == 0, error
    results = json.loads(out)["results"]
    assert results == json.loads((output / "benchmark.json").read_text())
    named = [(one["method"], one["protocol"]) for one in results["results"]]
    assert named == [("zero-shot", "laion"), ("zero-shot", "mteb"), ("linear probe", "5 folds")]
    assert results["results"][2]["accuracy"]["value"] > 0.9
    assert "rounded to 16 bits" in results["results"][0]["settings"]["description"]
    assert (results["clips"], results["lacking"]) == (20, "")
    page = (output / "benchmark.html").read_text()
    assert "arXiv 2106.13043" in page
    assert "69.40 %" in page
    assert len((output / "predictions.csv").read_text().splitlines()) == 1 + 3 * 20


def test_the_command_retrieves_captions(run, clotho, tmp_path):
    code, out, error = run("benchmark", "clotho", clotho, "-o", tmp_path / "report")
    assert code == 0, error
    assert "text to audio" in out
    assert "mAP@10" in (tmp_path / "report/benchmark.html").read_text()


def test_audiocaps_has_five_captions_of_each_clip(tmp_path, monkeypatch):
    write_clip(tmp_path / "test/abc_10.wav", 0, 0)
    rows = [f"{number},abc,10,caption {number}" for number in range(5)]
    text = "\n".join(["audiocap_id,youtube_id,start_time,caption", *rows, "9,def,0,no audio"])
    (tmp_path / "test.csv").write_text(text + "\n")
    with pytest.raises(UserError, match=r"has 2 of 975 clips; 1 audio files are missing: def_0"):
        read_benchmark("audiocaps", tmp_path)
    (clip,) = read_benchmark("audiocaps", tmp_path, partial=True).clips
    assert len(clip.captions) == 5


def test_vggsounds_test_split_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setitem(folders.LAYOUTS, "vggsound", folders.VggSoundLayout(labels=2))
    rows = ['a_b,30,"pigeon, dove cooing",test', "c,5,dog growling,test", "d,0,dog growling,train"]
    (tmp_path / "vggsound.csv").write_text("\n".join(rows) + "\n")
    write_clip(tmp_path / "test/a_b_000030.wav", 0, 0)
    with pytest.raises(UserError, match=r"1 audio files are missing: c_000005"):
        read_benchmark("vggsound", tmp_path)
    write_clip(tmp_path / "test/c_000005.wav", 1, 0)
    found = read_benchmark("vggsound", tmp_path)
    assert found.labels == ("dog growling", "pigeon, dove cooing")
    assert [(clip.item, clip.label) for clip in found.clips] == [("a_b", 1), ("c", 0)]
    code, out, error = run("benchmark", "vggsound", tmp_path, "-o", tmp_path / "report")
    assert code == 0, error
    assert "2 of 2 clips" in out
    probe = run("benchmark", "vggsound", tmp_path, "--linear-probe", "-o", tmp_path / "probe")
    assert "three folds" in probe[2]
    assert not (tmp_path / "probe").exists()
    (tmp_path / "vggsound.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"Line 1 .* is damaged"):
        read_benchmark("vggsound", tmp_path)


def test_imagehears_images_are_named_by_what_they_show_and_would_sound_like(
    run, tmp_path, monkeypatch
):
    whole = folders.ImageHearLayout().images
    assert (len(whole), sum(whole.values())) == (30, 101)
    layout = folders.ImageHearLayout(images={"dog": 2, "rain": 1})
    monkeypatch.setitem(folders.LAYOUTS, "imagehear", layout)
    images = tmp_path / "ImageHear"
    images.mkdir()
    with pytest.raises(UserError, match=r"expected images such as dog1.jpg"):
        read_benchmark("imagehear", images)
    for name, color in (("dog1", "brown"), ("rain1", "blue")):
        Image.new("RGB", (32, 32), color).save(images / f"{name}.jpg")
    with pytest.raises(UserError, match=r"1 images are missing: dog2.jpg"):
        read_benchmark("imagehear", images)
    (images / "dog2.jpg").write_bytes((images / "dog1.jpg").read_bytes())
    assert [each.label for each in read_benchmark("imagehear", images).clips] == [0, 0, 1]
    code, out, error = run("benchmark", "imagehear", images, "-o", tmp_path / "report")
    assert code == 0, error
    assert "3 of 3 images" in out
    assert "zero-shot, translated" in out
    # A translator into the wrong space is refused, and a broken image named.
    wrong = ("--translator", "demo-back", "-o", tmp_path / "wrong")
    code, _, error = run("benchmark", "imagehear", images, *wrong)
    assert code == 2
    (images / "dog2.jpg").write_bytes(b"no image")
    code, _, error = run("benchmark", "imagehear", images, "-o", tmp_path / "broken")
    assert code == 2
    assert "dog2.jpg" in error
    code, out, _ = run("benchmark", "imagehear", images, "-o", tmp_path / "part", "--partial")
    assert code == 1
    assert "2 of 3 images" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["esc50", "absent"], "FOLDER: absent is not a folder"),
        (["esc50", ".", "--protocol", "laoin"], "--protocol: expected all or one of clip2clap"),
        (["clotho", ".", "--linear-probe"], "--linear-probe: clotho is retrieved"),
        (["clotho", ".", "--translator", "demo"], "--translator: clotho has no images"),
        (["imagehear", ".", "--linear-probe"], "--linear-probe: imagehear has images"),
        (["us8k", "."], r"metadata/UrbanSound8K.csv is missing"),
        (["esc50", ".", "--encoder", "clap-htsat-unfussed"], "--encoder: There is no clap preset"),
        (["esc51", "."], "esc51"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("benchmark", *arguments)
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_broken_clip_is_named_and_left_out_only_on_demand(run, esc50, tmp_path):
    (esc50 / "audio/2-100-A-0.wav").write_bytes(b"RIFF")
    code, _, error = run("benchmark", "esc50", esc50, "-o", tmp_path / "report")
    assert code == 2
    assert "1 clips cannot be read" in error
    code, out, error = run("benchmark", "esc50", esc50, "-o", tmp_path / "report", "--partial")
    assert code == 1
    assert "skipped" in error
    assert "19 of 20 clips" in out


def test_a_killed_run_goes_on_with_the_clips_that_are_left(
    esc50, tmp_path, clap, in_a_fork: Callable[..., int], monkeypatch
):
    from clip2clap.evaluation.benchmarks import encoding

    monkeypatch.setattr(encoding, "_CLIPS_PER_SHARD", 4)
    benchmark = read_benchmark("esc50", esc50)
    config = BenchmarkConfig(choose_protocols(["clip2clap"]), batch_size=4)

    def run_and_die() -> None:
        torch.set_num_threads(1)
        flushes = 0
        flush = TableWriter.flush

        def dying(self: TableWriter) -> None:
            nonlocal flushes
            flush(self)
            flushes += 1
            if flushes == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        TableWriter.flush = dying
        run_benchmark(benchmark, clap, tmp_path / "killed", config)

    assert os.WIFSIGNALED(in_a_fork(run_and_die))
    encoded: list[Clip] = []
    read = encoding._read
    monkeypatch.setattr(encoding, "_read", lambda *args: (encoded.append(args[-1]), read(*args))[1])
    found = run_benchmark(benchmark, clap, tmp_path / "killed", config)
    assert len(encoded) == 12
    whole = run_benchmark(benchmark, clap, tmp_path / "whole", config)
    assert found["results"] == whole["results"]
