"""Write the demo models as the package ships them: half precision, in real checkpoints' formats."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from clip2clap.embeddings import ClapEncoder, ClipEncoder, EmbeddingSpace, TableWriter
from clip2clap.embeddings.checkpoint import NOTE_FILE
from clip2clap.embeddings.sfx_clap import (
    SfxClapConfig,
    SfxClapFeatureExtractor,
    SfxClapModel,
    SfxProjection,
)
from clip2clap.inference import ImageToAudioPipeline, LearnedNegativeEmbedding
from clip2clap.inference.image_to_audio import few_step_scheduler
from clip2clap.training import TrainingConfig, train
from clip2clap.training.demo import features, heads
from clip2clap.training.demo.generator import build_scheduler
from clip2clap.training.demo.parts import aisfx, efficientnet_lite0
from clip2clap.training.demo.recipe import Recipe
from clip2clap.translator import AutoTranslator

TRANSLATOR = TrainingConfig(loss="cosine", hidden=512, epochs=10, batch_size=256)
MODEL_ID = "demo"
KIND_PROMPT = "the sound of a {}"
GUIDANCE_SCALE = 3.0
INFERENCE_STEPS = 20


def package(recipe: Recipe, target: Path) -> None:
    """Write the demo models.

    Args:
        recipe: The recipe, whose stages are run where they have not been.
        target: The folder to write; what it held is overwritten.
    """
    clip_folder, clap_folder = recipe.folder / "clip_model", target / "clap"
    _save_clip(recipe, clip_folder)
    _save_clap(recipe, clap_folder)
    clip = ClipEncoder.from_pretrained(str(clip_folder), dtype=torch.float16)
    clap = ClapEncoder.from_pretrained(str(clap_folder), dtype=torch.float32)
    clip_space = replace(clip.space("image"), model_id=MODEL_ID)
    clap_space = replace(clap.space("audio"), model_id=MODEL_ID)
    translator = AutoTranslator.from_pretrained(_train_translator(recipe, clip_space, clap_space))
    translator.register_to_config(_name_or_path=MODEL_ID)
    generator = recipe.generator
    pipeline = ImageToAudioPipeline(
        clip=clip,
        translator=translator.half(),
        unet=generator.unet.half(),
        vae=recipe.autoencoder.half(),
        vocoder=recipe.vocoder.half(),
        scheduler=few_step_scheduler(build_scheduler().config),
        negative_embedding=LearnedNegativeEmbedding.from_vector(
            generator.negative_embeds.detach()
        ).half(),
        clap_id=MODEL_ID,
        clap_space=clap_space.to_dict(),
        default_guidance_scale=GUIDANCE_SCALE,
        default_num_inference_steps=INFERENCE_STEPS,
    )
    pipeline.save_pretrained(target / "image_to_audio")
    _name_space(target / "image_to_audio" / "clip" / NOTE_FILE)
    names = recipe.data.kind_names
    prompts = clap.texts([KIND_PROMPT.format(name) for name in names])
    save_file({"clap_text": prompts.half().contiguous()}, target / "kinds.safetensors")
    (target / "kinds.json").write_text(json.dumps({"kinds": names}, indent=2) + "\n")


def _save_clip(recipe: Recipe, folder: Path) -> None:
    network, _ = efficientnet_lite0()
    bert = BertModel(recipe.text.model.config)
    bert.load_state_dict(recipe.text.model.state_dict())
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        network.config, bert.config, projection_dim=heads.EMBED_DIM
    )
    model = VisionTextDualEncoderModel(config, network, bert)
    with torch.no_grad():
        model.visual_projection.weight.copy_(_weight(recipe.clip_heads.tower))
        folded = _weight(recipe.clip_heads.text) @ recipe.text.to_minilm.weight
        model.text_projection.weight.copy_(folded)
        model.logit_scale.copy_(recipe.clip_heads.logit_scale)
    model.half().save_pretrained(folder)
    features.image_processor().save_pretrained(folder)
    recipe.text.tokenizer.save_pretrained(folder)


def _save_clap(recipe: Recipe, folder: Path) -> None:
    projection = recipe.clap_heads.text
    assert isinstance(projection, SfxProjection)
    model = SfxClapModel(SfxClapConfig(text_config=recipe.text.model.config))
    model.audio_model.load_state_dict(aisfx().state_dict())
    model.text_model.load_state_dict(recipe.text.model.state_dict())
    model.audio_projection.load_state_dict(recipe.clap_heads.tower.state_dict())
    model.text_projection.load_state_dict(projection.state_dict())
    with torch.no_grad():
        folded = projection.linear1.weight @ recipe.text.to_minilm.weight
        model.text_projection.linear1.weight.copy_(folded)
        model.logit_scale.copy_(recipe.clap_heads.logit_scale)
    model.half().save_pretrained(folder)
    SfxClapFeatureExtractor().save_pretrained(folder)
    recipe.text.tokenizer.save_pretrained(folder)


def _name_space(note: Path) -> None:
    """Let the saved encoder say what it is rather than where it was made."""
    facts = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps({**facts, "model_id": MODEL_ID}, indent=2) + "\n", encoding="utf-8")


def _train_translator(recipe: Recipe, clip: EmbeddingSpace, clap: EmbeddingSpace) -> Path:
    """Learn from pairs of a training photograph and a training recording of its kind."""
    folder, table = recipe.folder / "translator", recipe.folder / "pairs"
    for stale in (folder, table):
        shutil.rmtree(stale, ignore_errors=True)
    _pair(recipe, table, clip, clap)
    train(table, folder, TRANSLATOR)
    return folder


def _pair(recipe: Recipe, table: Path, clip: EmbeddingSpace, clap: EmbeddingSpace) -> None:
    seed = torch.Generator().manual_seed(0)
    photos, sounds = recipe.photos, recipe.sounds
    split = features.SPLITS.index("train")
    rows = torch.where((photos["split"] == split) & (photos["kind"] >= 0))[0]
    kinds = photos["kind"][rows]
    partners = torch.empty_like(rows)
    for kind in kinds.unique():
        choices = torch.where((sounds["split"] == split) & (sounds["kind"] == kind))[0]
        places = torch.where(kinds == kind)[0]
        partners[places] = choices[torch.randint(len(choices), (len(places),), generator=seed)]
    spaces = {"clip_image": clip, "clap_audio": clap}
    embeds = {
        "clip_image": recipe.image_embeds[rows],
        "clap_audio": recipe.audio_embeds[partners],
    }
    ids = [f"photo-{number}" for number in photos["photo"][rows].tolist()]
    names = [recipe.data.kind_names[kind] for kind in kinds.tolist()]
    with TableWriter(table, spaces) as writer:
        writer.append(ids, {"kind": names}, embeds)


def _weight(projection: nn.Module) -> Tensor:
    assert isinstance(projection, nn.Linear)
    return projection.weight
