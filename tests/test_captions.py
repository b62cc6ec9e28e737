import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from clip2clap.embeddings import ClapEncoder, ClipEncoder, EmbeddingTable, UserError, embed_captions

CAPTIONS = [
    ("91139", "r1nicOVtvkQ", "130", "A woman talks nearby as water pours"),
    ("58146", "UDGBjjwyaqE", "20", "Rustling, ducks quack"),
    ("11542", "3ndid3jni7M", "30", ""),
    ("7", "abc", "0", "Rain"),
]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def captions(tmp_path) -> Path:
    path = tmp_path / "train.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        writer.writerows(CAPTIONS)
    return path


@pytest.fixture(scope="module")
def clap(audioldm_folder) -> ClapEncoder:
    return ClapEncoder.from_pretrained(audioldm_folder)


def test_a_file_of_another_name_says_nothing_of_a_split(captions, clap, tmp_path):
    table = embed_captions(captions.rename(tmp_path / "mine.csv"), clap, tmp_path / "table")
    assert "split" not in table.sources


def test_every_caption_becomes_a_row_and_an_empty_one_a_failure(captions, clap, tmp_path):
    table = embed_captions(captions, clap, tmp_path / "table", dtype="float32")
    assert table.ids == ["91139", "58146", "7"]
    assert table.source("youtube_id") == ["r1nicOVtvkQ", "UDGBjjwyaqE", "abc"]
    assert table.source("split") == ["train"] * 3
    assert table.source("item") == ["r1nicOVtvkQ_130", "UDGBjjwyaqE_20", "abc_0"]
    assert table.failures() == {"11542": "empty caption"}
    expected = clap.texts(table.source("caption"))
    assert torch.allclose(table.tensor("clap_text"), expected, atol=1e-6)
    assert table.spaces == {"clap_text": clap.space("text")}


def test_a_stopped_run_goes_on(captions, clap, tmp_path, monkeypatch):
    embed_captions(captions, clap, tmp_path / "table", limit=2)
    seen = []
    texts = clap.texts
    monkeypatch.setattr(
        clap, "texts", lambda batch, **options: (seen.extend(batch), texts(batch, **options))[1]
    )
    table = embed_captions(captions, clap, tmp_path / "table")
    assert seen == ["Rain"]
    assert table.ids == ["91139", "58146", "7"]


@pytest.fixture
def clip(tmp_path) -> ClipEncoder:
    """A CLIP that reads letters."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(
        tmp_path / "clip"
    )
    config = CLIPTextConfig(
        vocab_size=len(words),
        eos_token_id=len(words) - 1,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=8,
    )
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path / "clip")
    return ClipEncoder.from_pretrained(tmp_path / "clip")


def test_a_second_encoder_is_joined_by_id(captions, clap, clip, tmp_path):
    first = embed_captions(captions, clip, tmp_path / "first")
    with pytest.raises(UserError, match="has clip_text already"):
        embed_captions(captions, clip, tmp_path / "both", pair_with=tmp_path / "first")
    reordered = tmp_path / "reordered.csv"
    header, *rows = captions.read_text().splitlines()
    rows = [rows[3], rows[0].replace("water", "wine"), rows[1], "99,x,0,Not in the first"]
    reordered.write_text("\n".join([header, *rows]) + "\n")
    both = embed_captions(reordered, clap, tmp_path / "both", pair_with=tmp_path / "first")
    assert both.ids == ["7", "58146"]
    assert torch.equal(both.tensor("clip_text"), first.tensor("clip_text")[[2, 1]])
    assert set(both.spaces) == {"clip_text", "clap_text"}
    assert set(both.failures()) == {"91139", "99"}
    assert "another caption" in both.failures()["91139"]


def test_other_files_are_refused(tmp_path, clap):
    (tmp_path / "other.csv").write_text("id,text\n1,dog\n")
    with pytest.raises(UserError, match="audiocap_id, youtube_id, start_time, caption missing"):
        embed_captions(tmp_path / "other.csv", clap, tmp_path / "table")
    with pytest.raises(UserError, match="can't be read"):
        embed_captions(tmp_path / "nowhere.csv", clap, tmp_path / "table")


@pytest.mark.parametrize("name", ["CLIP", "CLAP"])
def test_the_scripts_run_as_files_and_as_modules(name):
    script = str(ROOT / "prior_steps" / "audiocaps" / f"embedding_{name}.py")
    for command in ([script], ["-m", f"clip2clap.prior_steps.audiocaps.embedding_{name}"]):
        done = subprocess.run(
            [sys.executable, *command, "--help"], capture_output=True, text=True, check=True
        )
        assert "An AudioCaps CSV as published" in done.stdout


def test_a_script_writes_a_table_and_tells_a_mistake_in_one_line(
    captions, audioldm_folder, tmp_path, capsys, monkeypatch
):
    import typer

    from clip2clap.prior_steps.audiocaps import embedding_CLAP

    embedding_CLAP.main(captions, tmp_path / "table", model=str(audioldm_folder))
    assert f"3 captions in {tmp_path / 'table'}, 1 failed" in capsys.readouterr().out
    assert len(EmbeddingTable.open(tmp_path / "table")) == 3
    with pytest.raises(typer.Exit) as exit_:
        embedding_CLAP.main(captions, tmp_path / "table", model=str(tmp_path / "nowhere"))
    assert exit_.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: There is no folder")
