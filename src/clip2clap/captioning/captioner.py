"""Captioner: a mapper and a causal language model, saved as a folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from clip2clap.captioning.language_model import load_language_model, with_padding
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.errors import CheckpointError, UserError, expect, is_integer, is_number
from clip2clap.core.files import replacing, save_tensors
from clip2clap.core.version import __version__
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError, require_same_model

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.base import Encoder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LANGUAGE_MODEL = "language_model"
FORMAT_VERSION = 1
MOST_TOKENS = 60
"""Largest number of tokens of a caption by default."""

_IGNORED = -100


class Captioner(nn.Module):
    """Captioner of CLIP or CLAP embeddings: a `PrefixMapper` and a causal language model.

    ClipCap (Mokady et al. 2021, https://arxiv.org/abs/2111.09734).

    Args:
        mapper: Mapper to the language model's input embeddings.
        language_model: Causal language model of transformers.
        tokenizer: Its tokenizer.
        space: Space of the embeddings that it reads, of any modality.
        facts: Recipe, metrics and data, for `config.json`.

    Raises:
        UserError: If the mapper does not fit the language model.

    Examples:
        >>> from clip2clap import ClipEncoder
        >>> from clip2clap.captioning import Captioner
        >>> clip, captioner = ClipEncoder.from_pretrained("demo"), Captioner.from_pretrained("demo")
        >>> captioner.generate(clip.encode_image(["dog.jpg"]), modality="image")
        [['...']]
    """

    def __init__(
        self,
        mapper: PrefixMapper,
        language_model: nn.Module,
        tokenizer: Any,
        *,
        space: EmbeddingSpace | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.mapper, self.language_model = mapper, language_model
        self.tokenizer = with_padding(tokenizer)
        self.space = space
        self.facts = dict(facts or {})
        self.name_or_path = ""
        """Name that the captioner was loaded by."""
        size = self._inputs.weight.shape[1]
        if size != mapper.target_dim:
            raise UserError(
                f"The mapper makes input embeddings of {mapper.target_dim} values, and the "
                f"language model reads {size}. Train a captioner for this language model."
            )
        if self._room < 2:
            raise UserError(
                f"A prefix of {mapper.prefix_length} leaves no room for a caption in the language "
                "model's positions. Give a shorter one.",
                param="prefix_length",
            )
        self._refuse(space)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype = torch.float32,
        **access: Any,
    ) -> Self:
        """Load a captioner, on the CPU, in evaluation mode.

        Args:
            pretrained_model_name_or_path: Folder written by `save_pretrained`, hub id, `"demo"`
                (reads the demo CLIP) or `"demo-clap"` (reads the demo CLAP).
            torch_dtype: Dtype of the weights.
            **access: `revision`, `token`, `local_files_only` and `cache_dir`, as in transformers.

        Raises:
            ModelNotFoundError: If there is no such captioner.
            CheckpointError: If its config or a weight is not as expected.
        """
        from clip2clap.captioning.checkpoint import find_folder, read_config, read_weights

        folder = find_folder(pretrained_model_name_or_path, **access)
        config = read_config(folder)
        try:
            with torch.device("meta"):
                mapper = PrefixMapper(**config["mapper"])
            space = config.get("space") and EmbeddingSpace.from_dict(config["space"])
        except (UserError, TypeError) as error:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} describes no captioner: {error}"
            ) from error
        shapes = {name: tuple(value.shape) for name, value in mapper.state_dict().items()}
        mapper.load_state_dict(read_weights(folder / WEIGHTS_FILE, shapes), assign=True)
        own = folder / config["language_model"]
        name = own if own.is_dir() else config["language_model"]
        language_model, tokenizer = load_language_model(name, torch_dtype=torch_dtype, **access)
        kept = ("recipe", "metrics", "data", "versions")
        facts = {key: config[key] for key in kept if config.get(key) is not None}
        try:
            found = cls(mapper.to(torch_dtype), language_model, tokenizer, space=space, facts=facts)
        except UserError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        found.name_or_path = os.fspath(pretrained_model_name_or_path)
        return found.eval()

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, language_model: str = LANGUAGE_MODEL
    ) -> None:
        """Write `config.json`, the mapper's safetensors file, and the language model's folder.

        Args:
            save_directory: Output folder; created if missing.
            language_model: Folder of the language model, which is written if it is inside; or a
                path relative to the folder, or a hub id, that holds the same one already.

        Raises:
            UserError: If `save_directory` is a file.
        """
        from clip2clap.core.hub import quiet

        folder = Path(save_directory)
        expect(not folder.is_file(), "save_directory", "a folder", str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        if language_model == LANGUAGE_MODEL:
            with quiet():
                model: Any = self.language_model
                model.save_pretrained(folder / LANGUAGE_MODEL)
                self.tokenizer.save_pretrained(folder / LANGUAGE_MODEL)
        weights = {name: value.contiguous() for name, value in self.mapper.state_dict().items()}
        save_tensors(weights, folder / WEIGHTS_FILE, {"format": "pt"})
        config = {
            "_class_name": type(self).__name__,
            "_format_version": FORMAT_VERSION,
            "mapper": self.mapper.config,
            "language_model": language_model,
            "space": None if self.space is None else self.space.to_dict(),
            "versions": {"clip2clap": __version__, "torch": torch.__version__},
            **self.facts,
        }
        with replacing(folder / CONFIG_FILE) as partial:
            partial.write_text(
                json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def check_source(self, space: EmbeddingSpace | None) -> None:
        """Raise an error if embeddings of a space cannot be read; None is unknown.

        Raises:
            SpaceMismatchError: If the models differ; the message names both.
        """
        if space is not None and self.space is not None:
            require_same_model(self.space, space, what="The captioner's source")
        self._refuse(space)

    def forward(
        self, embeds: Tensor, input_ids: Tensor, attention_mask: Tensor, modality: str | None = None
    ) -> Tensor:
        """Compute the mean cross-entropy per token of captions, each with its end token.

        Args:
            embeds: Embeddings, shape (n, d).
            input_ids: Tokens of the captions, shape (n, tokens), padded on the right.
            attention_mask: 1 for a token, 0 for padding, shape (n, tokens).
            modality: Modality of the embeddings, whose mean they are shifted by.
        """
        return self.prefix_loss(self.mapper(embeds, modality), input_ids, attention_mask)

    def prefix_loss(self, prefix: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Compute the loss of captions after prefixes, shape (n, prefix_length, hidden size)."""
        embedded = self._inputs(input_ids)
        inputs = torch.cat([prefix.to(embedded.dtype), embedded], dim=1)
        ones = attention_mask.new_ones(prefix.shape[:2])
        mask = torch.cat([ones, attention_mask], dim=1)
        logits = self.language_model(inputs_embeds=inputs, attention_mask=mask).logits
        # The last position of the prefix predicts the first token.
        predicted = logits[:, prefix.shape[1] - 1 : -1].float()
        labels = input_ids.masked_fill(attention_mask == 0, _IGNORED)
        return nn.functional.cross_entropy(
            predicted.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED
        )

    def tokenize(self, captions: list[str], *, most_tokens: int = MOST_TOKENS) -> dict[str, Tensor]:
        """Tokenize captions, each with the end token, for `forward`."""
        end = self.tokenizer.eos_token_id
        cut = min(most_tokens, self._room) - 1
        rows = self.tokenizer(captions, add_special_tokens=False).input_ids
        return self.pad([[*row[:cut], end] for row in rows])

    def pad(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """Pad tokens on the right, for `forward`."""
        longest, padding = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = [[*row, *[padding] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    @torch.no_grad()
    def generate(
        self,
        embeds: Tensor,
        *,
        modality: str | None = None,
        num_captions: int = 1,
        num_beams: int = 4,
        top_p: float | None = None,
        temperature: float = 1.0,
        max_new_tokens: int = MOST_TOKENS,
        batch_size: int = 16,
        generator: torch.Generator | None = None,
    ) -> list[list[str]]:
        """Caption embeddings by beam search or nucleus sampling.

        Args:
            embeds: Embeddings in the captioner's space, shape (n, d), of any norm.
            modality: Their modality, which tells what mean to subtract.
            num_captions: Captions per embedding, the most likely first with beam search.
            num_beams: Beams, at least as many as captions; 1 is greedy.
            top_p: Probability of the nucleus that is sampled from (Holtzman et al. 2020,
                https://arxiv.org/abs/1904.09751); beam search if None.
            temperature: Divisor of the logits when sampling.
            max_new_tokens: Largest number of tokens.
            batch_size: Embeddings per batch.
            generator: Generator on the CPU that sampling is seeded by.

        Raises:
            UserError: If the embeddings are of another size, or an option is out of range.
        """
        self._check_call(embeds, num_captions, num_beams, top_p, temperature, max_new_tokens)
        options: dict[str, Any] = {"num_beams": max(num_beams, num_captions)}
        # The search ends with as many captions as beams: to go on costs several times as much.
        options["early_stopping"] = options["num_beams"] > 1
        if top_p is not None:
            options = {"do_sample": True, "top_p": top_p, "temperature": temperature}
            options |= {"top_k": 0, "num_beams": 1}
        drawn = torch.randint(2**31, (), generator=generator) if top_p is not None else 0
        found: list[str] = []
        model: Any = self.language_model
        with torch.random.fork_rng():
            # transformers draws from torch's global generators.
            torch.manual_seed(int(drawn))
            for batch in embeds.split(batch_size):
                prefix = self.mapper(batch.to(self.device), modality)
                tokens = model.generate(
                    inputs_embeds=prefix,
                    attention_mask=prefix.new_ones(prefix.shape[:2], dtype=torch.long),
                    num_return_sequences=num_captions,
                    max_new_tokens=min(max_new_tokens, self._room),
                    eos_token_id=self.tokenizer.eos_token_id,
                    pad_token_id=self.tokenizer.pad_token_id,
                    **options,
                )
                found += self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        captions = [" ".join(each.split()) for each in found]
        return [captions[row : row + num_captions] for row in range(0, len(captions), num_captions)]

    def generate_nearest(
        self,
        embeds: Tensor,
        encoder: "Encoder",
        *,
        num_candidates: int,
        num_captions: int = 1,
        **options: Any,
    ) -> list[list[str]]:
        """Caption embeddings by the candidates whose own embeddings are the most similar.

        Similarities are cosines of what `PrefixMapper.distinct` makes of the embeddings.

        Args:
            embeds: Embeddings in the captioner's space, shape (n, d).
            encoder: Encoder of that space with a text encoder, which candidates are embedded by.
            num_candidates: Candidates per embedding, and beams of the search, at least as many as
                captions.
            num_captions: Captions per embedding, the most similar first.
            **options: As for `generate`, but for `num_beams`.

        Raises:
            UserError: As for `generate`, or if the encoder has no text encoder.
            SpaceMismatchError: If the encoder is another than the captioner's.
        """
        expect(
            is_integer(num_candidates) and num_candidates >= num_captions,
            "num_candidates",
            f"at least num_captions={num_captions}",
            num_candidates,
        )
        if self.space is not None:
            self.check_source(encoder.space(self.space.modality))
        options |= {"num_captions": num_candidates, "num_beams": num_candidates}
        found = self.generate(embeds, **options)
        texts = encoder.encode_text([text for own in found for text in own]).to(self.device)
        modality = options.get("modality")
        source = self.mapper.distinct(embeds.to(self.device), modality)
        known = self.mapper.distinct(texts, modality).view(len(found), num_candidates, -1)
        similarities = known @ source.unsqueeze(-1)
        order = similarities.squeeze(-1).argsort(dim=1, descending=True)[:, :num_captions]
        return [[own[n] for n in row] for own, row in zip(found, order.tolist(), strict=True)]

    @property
    def _inputs(self) -> Any:
        model: Any = self.language_model
        return model.get_input_embeddings()

    @property
    def _room(self) -> int:
        """Positions of the language model that are left beside the prefix."""
        model: Any = self.language_model
        positions = getattr(model.config, "max_position_embeddings", None) or 10**9
        return positions - self.mapper.prefix_length

    def _refuse(self, space: EmbeddingSpace | None) -> None:
        if space is not None and space.dim != self.mapper.source_dim:
            raise SpaceMismatchError(
                f"The captioner reads vectors of {self.mapper.source_dim} values, got {space}."
            )

    def _check_call(
        self,
        embeds: Tensor,
        num_captions: int,
        num_beams: int,
        top_p: float | None,
        temperature: float,
        max_new_tokens: int,
    ) -> None:
        dim = self.mapper.source_dim
        is_rows = isinstance(embeds, Tensor) and embeds.ndim == 2 and embeds.shape[1] == dim
        shape = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        expect(is_rows, "embeds", f"of shape (n, {dim})", shape)
        expect(bool(embeds.isfinite().all()), "embeds", "finite", "NaN or infinity")
        counts = {"num_captions": num_captions, "num_beams": num_beams}
        for name, value in {**counts, "max_new_tokens": max_new_tokens}.items():
            expect(is_integer(value) and 1 <= value <= 1_000, name, "from 1 to 1,000", value)
        is_share = top_p is None or (is_number(top_p) and 0 < top_p <= 1)
        expect(is_share, "top_p", "above 0 and at most 1", top_p)
        expect(is_number(temperature) and temperature > 0, "temperature", "above 0", temperature)
