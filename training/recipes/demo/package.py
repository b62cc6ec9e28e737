"""Write the demo models as the package ships them: half precision, in real checkpoints' formats."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from clip2clap.embeddings.checkpoint import NOTE_FILE
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.models.sfx_clap import SfxClapConfig, SfxClapFeatureExtractor, SfxClapModel
from clip2clap.training.config import TrainingConfig
from clip2clap.training.recipes.demo import features, heads
from clip2clap.training.recipes.demo import image_decoder as pictures
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, build_scheduler
from clip2clap.training.recipes.demo.parts import efficientnet_lite0
from clip2clap.training.recipes.demo.recipe import Recipe
from clip2clap.training.recipes.demo.text import Head, TextTowers
from clip2clap.training.trainer import train
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator

TRANSLATOR = TrainingConfig.reference(
    loss="cosine", hidden_size=512, epochs=10, batch_size=256, patience=10
)
MODEL_ID = "demo"
KIND_PROMPT = "the sound of a {}"
GUIDANCE_SCALE = 8.0
GUIDANCE_INTERVAL = (0.0, 0.5)
INFERENCE_STEPS = 10
CANDIDATES = 4
SOUND_MEMORY = {"beta": 20.0, "mix": 0.6}
PICTURE_MEMORY = {"beta": 40.0, "mix": 0.85}
"""How conditions are drawn to the means of the kinds, chosen on the validation split."""


def package(recipe: Recipe, target: Path) -> None:
    """Write the demo models.

    Args:
        recipe: The recipe, whose stages are run where they have not been.
        target: The folder to write; what it held is overwritten.
    """
    clip_folder, clap_folder = recipe.folder / "clip_model", target / "clap"
    _save_clip(recipe, clip_folder)
    _save_clap(recipe, clap_folder)
    clip = ClipEncoder.from_pretrained(str(clip_folder), torch_dtype=torch.float16)
    clap = ClapEncoder.from_pretrained(str(clap_folder), torch_dtype=torch.float32)
    spaces = {
        "clip_image": replace(clip.space("image"), model_id=MODEL_ID),
        "clap_audio": replace(clap.space("audio"), model_id=MODEL_ID),
    }
    table = recipe.folder / "pairs"
    _pair(recipe, table, spaces)
    generator, finisher = recipe.generator, recipe.finisher
    pipeline = ImageToAudioPipeline(
        clip=clip,
        translator=_translator(table, recipe.folder / "translator", "clip_image", "clap_audio"),
        unet=_compact(generator.unet),
        vae=_compact(recipe.autoencoder),
        vocoder=_compact(recipe.vocoder),
        # What the UNet smooths away is made anew: rushing and crackling keep their grain.
        scheduler=few_step_scheduler(build_scheduler().config, algorithm_type="sde-dpmsolver++"),
        negative_embedding=_negative(generator),
        retrieval_memory=RetrievalMemory.from_embeds(recipe.sound_means, **SOUND_MEMORY).half(),
        clap_id=MODEL_ID,
        clap_space=spaces["clap_audio"].to_dict(),
        default_guidance_scale=GUIDANCE_SCALE,
        default_guidance_interval=GUIDANCE_INTERVAL,
        default_num_inference_steps=INFERENCE_STEPS,
        default_num_candidates=CANDIDATES,
    )
    pipeline.save_pretrained(target / "image_to_audio")
    _name_space(target / "image_to_audio" / "clip" / NOTE_FILE)
    AudioToImagePipeline(
        # Both lie elsewhere in the package already.
        clap=None,
        clip=None,
        clap_id=MODEL_ID,
        clip_id=MODEL_ID,
        translator=_translator(
            table, recipe.folder / "translator_back", "clap_audio", "clip_image"
        ),
        unet=_compact(finisher.painter.unet),
        vae=_compact(recipe.picture_vae),
        scheduler=few_step_scheduler(build_scheduler().config),
        negative_embedding=_negative(finisher.painter),
        retrieval_memory=RetrievalMemory.from_embeds(recipe.image_means, **PICTURE_MEMORY).half(),
        clip_space=spaces["clip_image"].to_dict(),
        default_guidance_scale=pictures.GUIDANCE_SCALE,
        default_num_inference_steps=pictures.STEPS,
    ).save_pretrained(target / "audio_to_image")
    names = recipe.data.kind_names
    prompts = clap.encode_text([KIND_PROMPT.format(name) for name in names])
    save_file({"clap_text": prompts.half().contiguous()}, target / "kinds.safetensors")
    (target / "kinds.json").write_text(json.dumps({"kinds": names}, indent=2) + "\n")


def _compact(model: nn.Module) -> Any:
    """Make a model ready to ship: float16, of whose mantissas the two lowest bits are rounded away.

    That is a relative error of one part in 512, a quarter of bfloat16's, and lets a wheel compress
    the weights by a fifth.
    """
    model.half()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype == torch.float16:
            bits = tensor.data.view(torch.int16)
            rounded = (bits + 2) & ~3
            # Rounding up must not carry the largest numbers into infinity.
            bits.copy_(torch.where((rounded & 0x7C00) == 0x7C00, bits & ~3, rounded))
    return model


def _negative(model: ConditionalUNet) -> LearnedNegativeEmbedding:
    return LearnedNegativeEmbedding.from_vector(model.negative_embeds.detach()).half()


def _save_clip(recipe: Recipe, folder: Path) -> None:
    network, _ = efficientnet_lite0()
    text = recipe.text
    bert = BertModel(text.bert.config)
    bert.load_state_dict(_with_pooler(text, text.clip))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        network.config, bert.config, projection_dim=heads.EMBED_DIM
    )
    model = VisionTextDualEncoderModel(config, network, bert)
    model.visual_projection.load_state_dict(recipe.clip_space.tower.state_dict())
    model.text_projection.load_state_dict(text.clip.projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(recipe.clip_space.logit_scale)
    _compact(model).save_pretrained(folder)
    features.image_processor().save_pretrained(folder)
    recipe.words.tokenizer.save_pretrained(folder)


def _save_clap(recipe: Recipe, folder: Path) -> None:
    text = recipe.text
    model = SfxClapModel(SfxClapConfig(text_config=text.bert.config))
    model.audio_model.load_state_dict(recipe.audio_model.state_dict())
    model.text_model.load_state_dict(_with_pooler(text, text.clap))
    model.audio_projection.load_state_dict(recipe.clap_space.tower.state_dict())
    model.text_projection.load_state_dict(text.clap.projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(recipe.clap_space.logit_scale)
    _compact(model).save_pretrained(folder)
    SfxClapFeatureExtractor().save_pretrained(folder)
    recipe.words.tokenizer.save_pretrained(folder)


def _with_pooler(towers: TextTowers, head: Head) -> dict[str, Tensor]:
    pooler = {f"pooler.{name}": value for name, value in head.pooler.state_dict().items()}
    return {**towers.bert.state_dict(), **pooler}


def _name_space(note: Path) -> None:
    """Let the saved encoder say what it is rather than where it was made."""
    facts = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps({**facts, "model_id": MODEL_ID}, indent=2) + "\n", encoding="utf-8")


def _translator(table: Path, folder: Path, source: str, target: str) -> Translator:
    """Learn from pairs of a training photograph and a training recording of its kind."""
    shutil.rmtree(folder, ignore_errors=True)
    train(table, folder, replace(TRANSLATOR, source=source, target=target))
    translator = AutoTranslator.from_pretrained(folder)
    translator.name_or_path = MODEL_ID
    return _compact(translator)


def _pair(recipe: Recipe, table: Path, spaces: dict[str, EmbeddingSpace]) -> None:
    shutil.rmtree(table, ignore_errors=True)
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
    embeds = {
        "clip_image": recipe.image_embeds[rows],
        "clap_audio": sounds["embeds"][partners],
    }
    numbers = photos["photo"][rows].tolist()
    columns = {
        "item": [f"photo-{number}" for number in numbers],
        "kind": [recipe.data.kind_names[kind] for kind in kinds.tolist()],
    }
    with TableWriter(table, spaces) as writer:
        writer.append([f"pair-{row}" for row in rows.tolist()], columns, embeds)
