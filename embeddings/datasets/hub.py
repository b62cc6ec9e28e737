"""Data sets of the `datasets` library, from the hub or from disk."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.datasets.base import Row, Source, file_stem
from clip2clap.embeddings.datasets.readers import with_class_names
from clip2clap.embeddings.datasets.tables import ColumnNames, rows_of, settings_of
from clip2clap.embeddings.space import Modality


@dataclass(frozen=True)
class HubDataset(Source):
    """Data set of the `datasets` library: a hub id, streamed, or a saved folder."""

    name: str
    wanted: frozenset[Modality]
    columns: ColumnNames = field(default_factory=ColumnNames)
    split: str = "train"

    @property
    def settings(self) -> dict[str, Any]:
        name = Path(self.name).resolve().name if Path(self.name).is_dir() else self.name
        fields = settings_of(self.columns)
        return {"source": "datasets", "files": [name], "fields": fields, "split": self.split}

    def __iter__(self) -> Iterator[Row]:
        import datasets

        try:
            if Path(self.name).is_dir():
                loaded: Any = datasets.load_from_disk(self.name)
                if isinstance(loaded, datasets.DatasetDict):
                    if self.split not in loaded:
                        raise UserError(f"{self.name} has no split {self.split!r}.", param="split")
                    loaded = loaded[self.split]
            else:
                loaded = datasets.load_dataset(self.name, split=self.split, streaming=True)
            features = loaded.features or {}
            for name, feature in features.items():
                if isinstance(feature, datasets.Image | datasets.Audio):
                    loaded = loaded.cast_column(name, type(feature)(decode=False))
        except UserError:
            raise
        except Exception as error:  # of any class, for damaged files
            raise UserError(
                f"The data set {self.name} can't be loaded ({one_line(error)}). Check its name and "
                "the network, or give a folder that it was saved to."
            ) from error
        classes = {n: f.names for n, f in features.items() if isinstance(f, datasets.ClassLabel)}

        def records() -> Iterator[Mapping[str, Any]]:
            try:
                for record in loaded:
                    yield with_class_names(record, classes)
            except Exception as error:
                raise UserError(
                    f"Reading the data set {self.name} failed ({one_line(error)}). Rows embedded "
                    "so far are safe: start again."
                ) from error

        path = Path(self.name)
        names = self.columns.find(list(loaded.column_names or features), self.wanted, self.name)
        keep = self.columns.keep
        return rows_of(records(), names, keep, stem=file_stem(path), base=path)
