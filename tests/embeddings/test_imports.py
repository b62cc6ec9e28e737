import subprocess
import sys

HEAVY = {"transformers", "httpx", "diffusers", "datasets", "matplotlib", "scipy"}


def test_importing_loads_no_heavy_library():
    code = (
        "import clip2clap.embeddings, sys; from clip2clap import ClipEncoder, ClapEncoder;"
        "from clip2clap.embeddings import EmbeddingSpace, read_space; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_norms_of_a_table_are_measured_without_torch():
    code = (
        "import clip2clap.embeddings.norms.measure, clip2clap.embeddings.norms.report, sys;"
        "import clip2clap.embeddings.table.reader; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not (HEAVY | {"torch", "pandas"}) & set(done.stdout.split())


def test_reading_a_space_loads_no_model_classes():
    code = (
        "from clip2clap.embeddings import read_space; import sys;"
        "read_space('demo', family='clip', modality='image'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    models = [name for name in loaded if name.startswith("transformers.models.")]
    modeling = {name for name in models if name.rpartition(".")[2].startswith("modeling_")}
    assert modeling <= {"transformers.models.auto.modeling_auto"}  # the table of classes alone
    assert "diffusers" not in loaded
    assert done.stderr == ""
