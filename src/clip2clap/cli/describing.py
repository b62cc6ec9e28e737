"""Prompts that describe the inputs of a verb: `--describe`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clip2clap.cli.checks import choose_device, choose_dtype, require
from clip2clap.core.errors import UserError
from clip2clap.inference.prompts import PromptTemplate
from clip2clap.search.labels import read_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from clip2clap.search.describe import Describer

_DEFAULTS = {"audio": "{caption}, {keywords}", "image": "{caption}"}
_OF_DESCRIPTIONS = ("prompt_template", "captioner", "text_model")


def check_describe(options: Any) -> None:
    """Check the options of descriptions before a model is loaded.

    Raises:
        UserError: With the option.
    """
    if not options.describe:
        for param in _OF_DESCRIPTIONS:
            given = getattr(options, param, None)
            require(given is None, param, "goes with --describe.")
    require(
        not (options.describe and options.prompt),
        "prompt",
        "--describe makes the prompt. Put words of your own into --prompt-template.",
    )
    PromptTemplate(options.prompt_template or _DEFAULTS["audio"])
    if options.describe:
        try:
            read_vocabulary(options.vocabulary)
        except UserError as error:
            # Other lists of labels are parameters of this name, too.
            error.param = "vocabulary"
            raise


@dataclass(frozen=True)
class Prompter:
    """Maker of prompts that describe embeddings of an encoder, shape (n, d)."""

    modality: Literal["image", "audio"]
    describer: "Describer"
    template: PromptTemplate
    facts: dict[str, Any]
    """What decides the prompts."""

    def __call__(self, embeds: "Tensor") -> list[str]:
        """Return a prompt for each embedding."""
        found = self.describer(self.modality, embeds)
        return [self.template(each.caption, each.keywords) for each in found]


def load_prompter(options: Any, modality: Literal["image", "audio"], pipeline: Any) -> Prompter:
    """Load what describes embeddings of a pipeline's encoder.

    Raises:
        UserError: If a captioner was trained for another encoder, or there is no text encoder for
            keywords.
    """
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.embeddings.fingerprint import fingerprint_tensors
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.describe import Describer
    from clip2clap.search.keywords import KeywordExtractor

    device = choose_device("cpu" if options.low_memory else options.device)
    family = "clip" if modality == "image" else "clap"
    encoders: dict[str, Any] = {family: getattr(pipeline, family)}
    template = PromptTemplate(options.prompt_template or _DEFAULTS[modality])
    facts: dict[str, Any] = {"template": template.template}
    captioner = keywords = None
    if template.has_caption:
        names = options.captioner or ["demo" if modality == "image" else "demo-clap"]
        captioners = [Captioner.from_pretrained(name).to(device) for name in names]
        own = [each for each in captioners if each.space is None or each.space.family == family]
        translator = None if own else pipeline.translator
        facts["captioner"] = [
            fingerprint_tensors(each.state_dict().values()) for each in own or captioners
        ]
        captioner = FileCaptioner(own or captioners, **encoders, translator=translator)
    if template.has_keywords:
        if "text" not in encoders[family].modalities:
            # The generator needs no text encoder of its CLIP.
            name = encoders[family].space(modality).model_id
            encoders[family] = ClipEncoder.from_pretrained(name, device=device)
        keywords = KeywordExtractor(options.vocabulary, **encoders)
        facts |= {"vocabulary": options.vocabulary, "keywords": options.prompt_keywords}
    describer = Describer(captioner, keywords, num_keywords=options.prompt_keywords)
    return Prompter(modality, describer, template, facts)


def load_words_route(options: Any, pipeline: Any) -> Any:
    """Return the route from audio to images by words, around a loaded pipeline."""
    from clip2clap.inference.text_to_image import TextToImage
    from clip2clap.inference.words_route import WordsRoute

    describe = load_prompter(options, "audio", pipeline)
    if options.text_model is None:
        return WordsRoute(pipeline, describe)
    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    model = TextToImage.from_pretrained(options.text_model, torch_dtype=dtype)
    if options.offload == "none":
        model.to(device)
    elif options.offload == "model":
        model.pipeline.enable_model_cpu_offload(device=device)
    else:
        model.pipeline.enable_sequential_cpu_offload(device=device)
    names = ("num_inference_steps", "guidance_scale", "negative_prompt", "width", "height")
    own = {name: getattr(options, name) for name in names}
    return WordsRoute(pipeline, describe, model, mixed=options.route == "mixed", **own)
