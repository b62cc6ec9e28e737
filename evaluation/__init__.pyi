from .classifiers import ClassifierJudge, ZeroShotJudge
from .comparison import compare_results
from .cycle import measure_round_trip
from .datasets.audio import read_takes
from .datasets.images import read_stills
from .generation.audio import evaluate_sounds
from .generation.images import evaluate_pictures
from .report.page import write_evaluation_page
from .results import Results
from .rows import choose_rows
from .translation import evaluate_embeddings

__all__ = [
    "ClassifierJudge",
    "Results",
    "ZeroShotJudge",
    "choose_rows",
    "compare_results",
    "evaluate_embeddings",
    "evaluate_pictures",
    "evaluate_sounds",
    "measure_round_trip",
    "read_stills",
    "read_takes",
    "write_evaluation_page",
]
