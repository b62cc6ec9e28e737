"""Time of loading all demo models, compared with importing the libraries.

python benchmarks/loading.py
"""

from importlib import import_module

from timing import seconds


def import_libraries() -> None:
    """Import the pipelines and the encoders, and with them torch, transformers and diffusers."""
    for name in (
        "clip2clap.embeddings.encoders.clap",
        "clip2clap.embeddings.encoders.clip",
        "clip2clap.inference.audio_to_image",
        "clip2clap.inference.image_to_audio",
    ):
        import_module(name)


def load_models() -> None:
    """Load both demo pipelines, and the CLAP that ranks candidates."""
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline

    clap = ClapEncoder.from_pretrained("demo")
    ImageToAudioPipeline.from_pretrained("demo", ranker=clap)
    AudioToImagePipeline.from_pretrained("demo", clap=clap)


def main() -> None:
    """Time the imports, the first load and the second, in this order."""
    imports = seconds(import_libraries)
    first, second = seconds(load_models), seconds(load_models)
    print(f"libraries imported            {imports:.2f} s")
    print(f"demo models loaded            {first:.2f} s (goal: at most 2)")
    print(f"loaded again                  {second:.2f} s, {second / imports:.2f} of the imports")


if __name__ == "__main__":
    main()
