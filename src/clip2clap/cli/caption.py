"""The verb `caption`."""

from functools import partial
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, choose_device, require
from clip2clap.cli.inputs import load_named_image
from clip2clap.cli.loading import check_models
from clip2clap.cli.naming import find_files
from clip2clap.cli.options.search import Caption
from clip2clap.cli.progress import RunReport, progress_bar


def caption(options: Caption) -> None:
    """Describe images and audio in a sentence each.

    A captioner reads the embeddings of one CLIP or CLAP; what it does not read is translated first
    if --translator is given, as is audio with --captioner demo --translator demo-back.

    A file that cannot be read is skipped; the exit code is then 1.
    """
    sources = find_files(options.inputs, recursive=options.recursive)
    require(options.top_p is None or options.top_p <= 1, "top_p", "expected at most 1.")
    require(
        options.temperature is None or options.top_p is not None,
        "temperature",
        "it goes with --top-p.",
    )
    candidates = options.num_candidates
    enough = candidates is None or options.num_captions <= candidates <= 100
    require(enough, "num_candidates", "expected from --num-captions to 100.")
    check_models(options)
    check_device(options.device, None)
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        captioner = _load(options, sources)
    report.lap("load")
    with progress_bar("Captioning") as progress:
        task = progress.add_task("", total=len(sources))
        try:
            for file in captioner(
                sources,
                batch_size=options.batch_size,
                load=partial(load_named_image, allow_private=options.allow_private),
                **_decoding(options),
            ):
                if file.reason is not None:
                    report.skip(file.source, file.reason)
                else:
                    for text in file.captions or ["silent"]:
                        report.show(f"{file.source}: {text}")
                    report.results.append({"input": file.source, "captions": file.captions})
                progress.advance(task)
        except KeyboardInterrupt:
            report.interrupted = True
    report.lap("generate")
    report.end()


def _decoding(options: Caption) -> dict[str, Any]:
    import torch

    given = {"num_captions": options.num_captions, "num_beams": options.num_beams}
    given |= {"top_p": options.top_p, "temperature": options.temperature or 1.0}
    if options.num_candidates is not None:
        given["num_candidates"] = options.num_candidates
    if options.max_tokens is not None:
        given["max_new_tokens"] = options.max_tokens
    return {**given, "generator": torch.Generator().manual_seed(options.seed)}


def _load(options: Caption, sources: list[str]) -> Any:
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.files import modality_of
    from clip2clap.translator.auto import AutoTranslator

    device = choose_device(options.device)
    needed = set(map(modality_of, sources))
    translator = None
    if options.translator is not None:
        translator = AutoTranslator.from_pretrained(options.translator).to(device)
    names = options.captioner or _demo_captioners(needed, translator)
    captioners = [Captioner.from_pretrained(name).to(device) for name in names]
    models = {each.space.family: each.space.model_id for each in captioners if each.space}
    compares = options.num_candidates is not None
    if compares:
        needed |= {"image" if family == "clip" else "audio" for family in models}
    if translator is not None and translator.source_space is not None:
        space = translator.source_space
        models.setdefault(space.family, space.model_id)
    encoders: dict[str, Any] = {"clip": None, "clap": None}
    kinds: Any = {"image": ("clip", ClipEncoder), "audio": ("clap", ClapEncoder)}
    for modality in needed:
        family, kind = kinds[modality]
        name = getattr(options, family) or models.get(family, "demo")
        parts = [modality, "text"] if compares else [modality]
        encoders[family] = kind.from_pretrained(name, device=device, modalities=parts)
    return FileCaptioner(captioners, **encoders, translator=translator)


def _demo_captioners(needed: set[Any], translator: Any) -> list[str]:
    """Return the demo captioners of files, or the one that a translator leads to."""
    if translator is not None and translator.target_space is not None:
        return ["demo" if translator.target_space.family == "clip" else "demo-clap"]
    names = {"image": "demo", "audio": "demo-clap"}
    return [name for modality, name in names.items() if modality in needed]
