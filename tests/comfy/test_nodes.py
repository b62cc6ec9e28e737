"""The node pack in a stand-in of ComfyUI: its loader, its types, and its runs of a workflow."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from clip2clap.media.audio import load_audio

from .builders import PACK, workflow

BUILT_IN = {"STRING", "INT", "FLOAT", "BOOLEAN", "IMAGE", "AUDIO"}


class Interrupted(Exception):
    """What ComfyUI raises where its user cancels."""


class LoadImage:
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": (["dog.jpg"],)}}

    def load(self, image):
        pixels = torch.zeros(1, 48, 64, 3)
        pixels[..., 0] = torch.linspace(0, 1, 64)
        return pixels, None


class LoadAudio:
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": (["bark.wav"],)}}

    def load(self, audio):
        time = torch.arange(44_100) / 44_100
        tone = 0.3 * torch.sin(2 * torch.pi * 440 * time)
        return ({"waveform": torch.stack([tone, 0.5 * tone])[None], "sample_rate": 44_100},)


class PreviewAudio:
    RETURN_TYPES = ()
    FUNCTION = "play"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"audio": ("AUDIO",)}}

    def play(self, audio):
        return {"ui": {"audio": audio}}


class SaveImage:
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}}

    def save(self, images, filename_prefix):
        return {"ui": {"images": images}}


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    """Install modules that nodes import from ComfyUI; returns what they were told."""
    told = {"steps": 0, "total": 0, "interrupt": False}

    class ProgressBar:
        def __init__(self, total):
            told["total"] = total

        def update(self, value):
            told["steps"] += value

    def throw_exception_if_processing_interrupted():
        if told["interrupt"]:
            raise Interrupted

    modules: dict[str, Any] = {
        name: ModuleType(name) for name in ("comfy", "comfy.utils", "folder_paths")
    }
    modules["comfy.model_management"] = ModuleType("comfy.model_management")
    modules["comfy.utils"].ProgressBar = ProgressBar
    name = "throw_exception_if_processing_interrupted"
    setattr(modules["comfy.model_management"], name, throw_exception_if_processing_interrupted)
    modules["folder_paths"].get_output_directory = lambda: str(tmp_path)
    modules["folder_paths"].get_save_image_path = lambda prefix, folder: (
        folder, prefix, 1, "", prefix
    )  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return told


@pytest.fixture
def nodes(comfy, monkeypatch):
    """Load the pack as ComfyUI does: its folder's `__init__.py`, by a name with the whole path."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    assert module.NODE_CLASS_MAPPINGS.keys() == module.NODE_DISPLAY_NAME_MAPPINGS.keys()
    own = {each.__name__: each for each in (LoadImage, LoadAudio, PreviewAudio, SaveImage)}
    return own | module.NODE_CLASS_MAPPINGS


def run(nodes, steps):
    """Run a workflow as ComfyUI does: inputs are checked by type, and each node runs once."""
    results = {}

    def value(declared, given):
        if not isinstance(given, list):
            kinds = {"STRING": str, "INT": int, "FLOAT": float}
            fits = given in declared if isinstance(declared, list) else True
            assert fits
            assert isinstance(declared, list) or isinstance(given, kinds[declared])
            return given
        source, place = given
        assert nodes[steps[source]["class_type"]].RETURN_TYPES[place] == declared
        return result(source)[place]

    def result(number):
        if number not in results:
            node = nodes[steps[number]["class_type"]]
            types = node.INPUT_TYPES()
            declared = types["required"] | types.get("optional", {})
            given = steps[number]["inputs"]
            assert types["required"].keys() <= given.keys() <= declared.keys()
            inputs = {name: value(declared[name][0], each) for name, each in given.items()}
            results[number] = getattr(node(), node.FUNCTION)(**inputs)
        return results[number]

    for number, step in steps.items():
        if getattr(nodes[step["class_type"]], "OUTPUT_NODE", False):
            result(number)
    return results


def test_every_node_has_what_comfyui_reads(nodes):
    produced = {kind for node in nodes.values() for kind in node.RETURN_TYPES}
    for name, node in nodes.items():
        types = node.INPUT_TYPES()
        assert set(types) <= {"required", "optional", "hidden"}
        for kind, *options in (each for group in types.values() for each in group.values()):
            assert isinstance(kind, list) or kind in BUILT_IN | produced, name
            assert not options or isinstance(options[0], dict)
        assert callable(getattr(node, node.FUNCTION))


def test_the_example_makes_sounds_of_an_image_and_saves_them_best_first(nodes, comfy, tmp_path):
    changes = {"seconds": 1.0, "variations": 2, "steps": 1}
    results = run(nodes, workflow("image_to_sound", **changes))
    (audio,) = results["3"]
    assert audio["waveform"].shape == (2, 1, 16_000)
    ranked, similarities = results["5"]
    values = [float(each) for each in similarities.split(", ")]
    assert values == sorted(values, reverse=True)
    # They were ranked by the same embedding when they were made.
    assert torch.equal(ranked["waveform"], audio["waveform"])
    saved = [tmp_path / each["filename"] for each in results["6"]["ui"]["audio"]]
    assert [path.name for path in saved] == ["dog_00001_.flac", "dog_00002_.flac"]
    for path, waveform in zip(saved, ranked["waveform"], strict=True):
        np.testing.assert_allclose(
            load_audio(path)[0][200:-200], waveform[0][200:-200], atol=2 / 32768
        )
    assert comfy["steps"] == comfy["total"] == 1


def test_the_example_makes_images_of_a_stereo_sound(nodes, comfy):
    results = run(nodes, workflow("sound_to_image", count=2, steps=1))
    (images,) = results["3"]
    assert images.shape == (2, 128, 128, 3)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert comfy["steps"] == comfy["total"] == 1


def test_a_node_makes_what_the_pipeline_makes(nodes):
    from clip2clap import ImageToAudioPipeline

    results = run(nodes, workflow("image_to_sound", seconds=1.0, variations=1, steps=1, seed=5))
    pixels = LoadImage().load("dog.jpg")[0][0].numpy()
    expected = ImageToAudioPipeline.from_pretrained("demo")(
        pixels, audio_length_in_s=1.0, num_inference_steps=1, generator=[5]
    )
    made = results["3"][0]["waveform"][0]
    np.testing.assert_allclose(made, expected.audios, atol=1e-4)


def test_a_run_that_its_user_cancels_stops(nodes, comfy):
    comfy["interrupt"] = True
    with pytest.raises(Interrupted):
        run(nodes, workflow("image_to_sound", seconds=1.0, variations=1, steps=50))
    assert comfy["steps"] == 0
