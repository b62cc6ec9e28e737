"""Demo models as the package ships them: half precision, in the formats of real checkpoints."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

from clip2clap.core.files import save_tensors
from clip2clap.embeddings.checkpoint import NOTE_FILE
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.metrics.classification import AUDIO_PROMPT
from clip2clap.models.class_filters import ClassFilters
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.models.yamnet_clap import YamnetClapConfig, YamnetClapModel, YamnetFeatureExtractor
from clip2clap.training.recipes.demo import features, image_decoder, spaces
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, build_scheduler
from clip2clap.training.recipes.demo.pretrained import yamnet
from clip2clap.training.recipes.demo.recipe import TRANSLATOR, Recipe
from clip2clap.training.recipes.demo.text import Head, TextEncoders
from clip2clap.training.train import train
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator

MODEL_ID = "demo"
GUIDANCE_SCALE = 8.0
GUIDANCE_INTERVAL = (0.0, 0.5)
INFERENCE_STEPS = 8
CANDIDATES = 4
# Noises whose texture the UNet misses, chosen on the validation split.
FILTERED_CLASSES = ("sea", "wind")
# Retrieval memories, chosen on the validation split.
AUDIO_MEMORY = {"beta": 20.0, "mix": 0.6}
IMAGE_MEMORY = {"beta": 40.0, "mix": 0.85}


def package(recipe: Recipe, target: Path) -> None:
    """Write the demo models.

    Args:
        recipe: The recipe; stages that are missing are run.
        target: Output folder; its files are overwritten.
    """
    clip_folder, clap_folder = recipe.folder / "clip_model", target / "clap"
    _save_clip(recipe, clip_folder)
    _save_clap(recipe, clap_folder)
    clip = ClipEncoder.from_pretrained(str(clip_folder), torch_dtype=torch.float16)
    clap = ClapEncoder.from_pretrained(str(clap_folder), torch_dtype=torch.float32)
    table_spaces = {
        "clip_image": replace(clip.space("image"), model_id=MODEL_ID),
        "clap_audio": replace(clap.space("audio"), model_id=MODEL_ID),
    }
    table = recipe.folder / "pairs"
    _write_pairs(recipe, table, table_spaces)
    image_to_audio = _image_to_audio(recipe, clip, table, table_spaces["clap_audio"])
    image_to_audio.save_pretrained(target / "image_to_audio")
    _name_space(target / "image_to_audio" / "clip" / NOTE_FILE)
    audio_to_image = _audio_to_image(recipe, table, table_spaces["clip_image"])
    audio_to_image.save_pretrained(target / "audio_to_image")
    names = recipe.data.audio_class_names
    prompts = clap.encode_text([AUDIO_PROMPT.format(name) for name in names])
    stored = {"clap_text": prompts.half().contiguous()}
    stored["logit_scale"] = torch.tensor(clap.logit_scale).half()
    save_tensors(stored, target / "kinds.safetensors")
    kinds = {"kinds": recipe.data.class_names, "audio_kinds": names}
    (target / "kinds.json").write_text(json.dumps(kinds, indent=2) + "\n")


def _image_to_audio(
    recipe: Recipe, clip: ClipEncoder, table: Path, space: EmbeddingSpace
) -> ImageToAudioPipeline:
    folder = recipe.folder / "translator"
    return ImageToAudioPipeline(
        clip=clip,
        translator=_train_translator(table, folder, "clip_image", "clap_audio"),
        unet=compact(recipe.tuned_generator.unet),
        vae=compact(recipe.autoencoder),
        vocoder=compact(recipe.vocoder),
        # Stochastic sampling restores the texture of noisy audio that the UNet smooths away.
        scheduler=few_step_scheduler(build_scheduler().config, algorithm_type="sde-dpmsolver++"),
        negative_embedding=_negative(recipe.tuned_generator),
        retrieval_memory=RetrievalMemory.from_embeds(recipe.audio_means, **AUDIO_MEMORY).half(),
        class_filters=_class_filters(recipe),
        clap_id=MODEL_ID,
        clap_space=space.to_dict(),
        default_guidance_scale=GUIDANCE_SCALE,
        default_guidance_interval=GUIDANCE_INTERVAL,
        default_num_inference_steps=INFERENCE_STEPS,
        default_num_candidates=CANDIDATES,
    )


def _class_filters(recipe: Recipe) -> ClassFilters | None:
    names = recipe.data.audio_class_names
    filtered = [names.index(name) for name in FILTERED_CLASSES if name in names]
    if not filtered:
        return None
    labels = recipe.bank("train").labels
    return ClassFilters.from_latents(recipe.latents, labels, recipe.audio_means, filtered).half()


def _audio_to_image(recipe: Recipe, table: Path, space: EmbeddingSpace) -> AudioToImagePipeline:
    unet, folder = recipe.tuned_decoder.unet, recipe.folder / "translator_back"
    return AudioToImagePipeline(
        # The package ships both in other folders.
        clap=None,
        clip=None,
        clap_id=MODEL_ID,
        clip_id=MODEL_ID,
        translator=_train_translator(table, folder, "clap_audio", "clip_image"),
        unet=compact(unet.unet),
        vae=compact(recipe.image_autoencoder),
        scheduler=few_step_scheduler(build_scheduler().config),
        negative_embedding=_negative(unet),
        retrieval_memory=RetrievalMemory.from_embeds(recipe.image_means, **IMAGE_MEMORY).half(),
        clip_space=space.to_dict(),
        default_guidance_scale=image_decoder.GUIDANCE_SCALE,
        default_num_inference_steps=image_decoder.STEPS,
        default_size=image_decoder.IMAGE_SIZE,
        default_refine_strength=image_decoder.REFINE_STRENGTH,
        default_clip_guidance_scale=image_decoder.CLIP_GUIDANCE_SCALE,
    )


def compact(model: nn.Module) -> Any:
    """Convert a model to float16, rounding away the two lowest bits of the mantissas.

    The relative error is at most 1/512, a quarter of bfloat16's, and a wheel compresses the weights
    by a fifth.
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
    vision, text = recipe.vision, recipe.text_encoders
    bert = BertModel(text.bert.config)
    bert.load_state_dict(_with_pooler(text, text.clip))
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.network.config, bert.config, projection_dim=spaces.EMBED_DIM
    )
    model = VisionTextDualEncoderModel(config, deepcopy(vision.network), bert)
    model.visual_projection.load_state_dict(vision.projection.state_dict())
    model.text_projection.load_state_dict(text.clip.projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(recipe.clip_space.logit_scale)
    _save(recipe, model, features.image_processor(), folder)


def _save_clap(recipe: Recipe, folder: Path) -> None:
    text = recipe.text_encoders
    model = YamnetClapModel(YamnetClapConfig(text_config=text.bert.config))
    model.audio_model = yamnet(recipe.data.folder)
    model.text_model.load_state_dict(_with_pooler(text, text.clap))
    model.audio_projection.load_state_dict(recipe.clap_space.projection.state_dict())
    model.text_projection.load_state_dict(text.clap.projection.state_dict())
    with torch.no_grad():
        model.logit_scale.copy_(recipe.clap_space.logit_scale)
    _save(recipe, model, YamnetFeatureExtractor(), folder)


def _save(recipe: Recipe, model: nn.Module, processor: Any, folder: Path) -> None:
    compact(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe.text_student.tokenizer.save_pretrained(folder)


def _with_pooler(encoders: TextEncoders, head: Head) -> dict[str, Tensor]:
    pooler = {f"pooler.{name}": value for name, value in head.pooler.state_dict().items()}
    return {**encoders.bert.state_dict(), **pooler}


def _name_space(note: Path) -> None:
    """Replace the folder in a saved encoder's space by the demo models' id."""
    facts = json.loads(note.read_text(encoding="utf-8"))
    note.write_text(json.dumps({**facts, "model_id": MODEL_ID}, indent=2) + "\n", encoding="utf-8")


def _train_translator(table: Path, folder: Path, source: str, target: str) -> Translator:
    shutil.rmtree(folder, ignore_errors=True)
    train(table, folder, replace(TRANSLATOR, source=source, target=target))
    translator = AutoTranslator.from_pretrained(folder)
    translator.name_or_path = MODEL_ID
    return compact(translator)


def _write_pairs(recipe: Recipe, table: Path, table_spaces: dict[str, EmbeddingSpace]) -> None:
    shutil.rmtree(table, ignore_errors=True)
    pairs, names = recipe.pairs, recipe.data.audio_class_names
    columns = {"item": pairs.items, "label": [names[label] for label in pairs.labels.tolist()]}
    embeds = {"clip_image": pairs.images, "clap_audio": pairs.audio}
    with TableWriter(table, table_spaces) as writer:
        writer.append([f"pair-{number}" for number in range(len(pairs.items))], columns, embeds)
